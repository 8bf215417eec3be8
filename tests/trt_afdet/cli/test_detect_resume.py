"""``detect --resume`` goes on wherever a run was stopped or killed; what it leaves is the same."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.trt_afdet.onnx_models import save_model
from trt_afdet.cli import detect as command
from trt_afdet.cli import main
from trt_afdet.media import VideoWriter, write_picture


def scene(seed: int) -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.kron(small, np.ones((40, 40, 1), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures and two videos, one name twice, and a model."""
    for index in range(5):
        write_picture(tmp_path / "in" / f"{index}.png", scene(index))
    for name, seed in (("a.mp4", 10), ("a.avi", 20)):
        with VideoWriter(tmp_path / "in" / name, 20) as writer:
            for index in range(12):
                writer.write(scene(seed + index))
    save_model(tmp_path / "model.onnx")
    return tmp_path


def arguments(folder: Path, name: str, *more: str, out: bool = True) -> list[str]:
    words = ["detect", str(folder / "in"), "--model", str(folder / "model.onnx")]
    words += ["--jsonl", str(folder / f"{name}.jsonl"), "--resume", *more]
    return words + (["--out", str(folder / name)] if out else [])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stop_after(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    real, count = command.frame_record, 0

    def line(frame: Any, found: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > frames:
            raise KeyboardInterrupt
        return real(frame, found)

    monkeypatch.setattr(command, "frame_record", line)


@pytest.mark.parametrize("batch", ["1", "4"])
@pytest.mark.parametrize("out", [True, False])
def test_stops_anywhere_change_nothing(
    folder: Path, out: bool, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(folder, "whole", out=out)) == 0
    status, runs = 130, 0
    while status == 130:
        runs += 1
        with monkeypatch.context() as patch:
            # More than the frames of a video, whose annotated copy begins anew.
            stop_after(patch, 13)
            status = main(arguments(folder, "parts", "--batch", batch, out=out))
        assert (folder / "parts.jsonl").exists() == (status == 0)
    assert status == 0
    assert runs >= 3
    assert (folder / "parts.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    if out:
        parts, whole = contents(folder / "parts"), contents(folder / "whole")
        assert parts.keys() == whole.keys()
        assert parts == whole
        assert {"a.mp4", "a.avi.mp4", "0.png"} <= parts.keys()
    assert not list(folder.rglob(".*"))


def test_kills_at_random_points_change_nothing(folder: Path) -> None:
    assert main(arguments(folder, "whole")) == 0
    journal = folder / ".parts.jsonl.resume"
    chance = random.Random(0)
    for kills in range(5):
        process = subprocess.Popen(
            [sys.executable, "-m", "trt_afdet", *arguments(folder, "parts")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = journal.read_bytes().count(b"\n") if journal.exists() else 0
        wanted = before + chance.randint(1, 8)
        end = time.monotonic() + 120
        while kills < 4 and process.poll() is None:
            assert time.monotonic() < end
            if journal.exists() and journal.read_bytes().count(b"\n") >= wanted:
                process.kill()
            time.sleep(0.001)  # timing: the pause between two looks
        assert process.wait(120) in (0, -9)
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert (folder / "parts.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    left = contents(folder / "parts")
    finished = {name: data for name, data in left.items() if ".tmp." not in name}
    assert finished == contents(folder / "whole")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--conf", "0.5"], "conf: 0.3, now 0.5"),
        (["--iou", "0.4"], "iou: None, now 0.4"),
        (["--max-det", "3"], "max-det: None, now 3"),
        (["--classes", "imp"], "classes: None, now ['imp']"),
        (["--out", "elsewhere"], "now elsewhere"),
    ],
)
def test_other_settings_are_refused(
    folder: Path,
    change: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert main(arguments(folder, "parts")) == 130
    before = contents(folder)
    capsys.readouterr()
    assert main([*arguments(folder, "parts"), *change]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert words in line
    assert contents(folder) == before
    assert main(arguments(folder, "parts")) == 0


def test_another_model_or_other_inputs_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert main(arguments(folder, "parts")) == 130
    write_picture(folder / "in" / "6.png", scene(6))
    assert main(arguments(folder, "parts")) == 2
    assert "inputs: 7 (" in capsys.readouterr().err
    (folder / "in" / "6.png").unlink()
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert main(arguments(folder, "parts")) == 2
    assert "model: " in capsys.readouterr().err


def test_two_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trt_afdet.cli.journal import Journal

    with Journal(folder / ".parts.jsonl.resume", {}):
        assert main(arguments(folder, "parts")) == 1
    assert "another detect --resume" in capsys.readouterr().err


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_journal_loses_its_last_line_only(
    folder: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert main(arguments(folder, "parts", out=False)) == 130
    journal = folder / ".parts.jsonl.resume"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert main(arguments(folder, "parts", out=False)) == 0
    assert main(arguments(folder, "whole", out=False)) == 0
    assert (folder / "parts.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


def test_resume_needs_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detect", str(folder / "in"), "--model", str(folder / "model.onnx"), "--resume"]
    for more in ([], ["--jsonl", "-"], ["--jsonl", "/dev/null"]):
        assert main([*words, *more]) == 2
        assert "--resume needs files" in capsys.readouterr().err
