"""What ``detect`` takes, and what it says of what it does not take."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.trt_afdet.onnx_models import save_model
from trt_afdet.cli import main
from trt_afdet.media import VideoWriter, open_inputs, write_picture


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)

    def image() -> np.ndarray:  # type: ignore[type-arg]
        return np.kron(
            rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8)
        )

    for name in ("a.jpg", "b.png", "folder/c.png", "folder/sub/x.png", "0/d.png"):
        write_picture(tmp_path / name, image())
    for name in ("v.mp4", "folder/v.mp4", "k=v.mp4"):
        with VideoWriter(tmp_path / name, 10) as writer:
            for _ in range(4):
                writer.write(image())
    (tmp_path / "folder" / "._c.png").write_bytes(b"AppleDouble")
    (tmp_path / "folder" / ".c.0123.tmp.png").write_bytes(b"half")
    (tmp_path / "folder" / "notes.txt").write_text("text")
    (tmp_path / "cameras.yaml").write_text("sources: []\n")
    save_model(tmp_path / "m.onnx")
    return tmp_path


def detect(*words: str) -> int:
    return main(["detect", *words, "--model", "m.onnx"])


def sources(path: Path) -> list[str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return list(dict.fromkeys(line["source"] for line in lines))


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["a.jpg", "b.png"], ["a.jpg", "b.png"]),
        (["b.png", "a.jpg", "v.mp4"], ["b.png", "a.jpg", "v.mp4"]),
        (["v.mp4", "folder"], ["v.mp4", "folder/c.png", "folder/v.mp4"]),
        (["folder"], ["folder/c.png", "folder/v.mp4"]),
        (["*.png", "folder/*.mp4"], ["b.png", "folder/v.mp4"]),
        (["**/*.png"], ["0/d.png", "b.png", "folder/c.png", "folder/sub/x.png"]),
        (["0"], ["0/d.png"]),
        (["k=v.mp4"], ["k=v.mp4"]),
        (["file:v.mp4"], ["v.mp4"]),
    ],
)
def test_mixtures(here: Path, words: list[str], want: list[str]) -> None:
    assert detect(*words, "--jsonl", "o.jsonl", "--out", "o") == 0
    assert sources(here / "o.jsonl") == want
    written = [p for p in (here / "o").rglob("*") if p.is_file()]
    assert len(written) == len(want)
    for path in written:
        with open_inputs(path) as source:
            assert len(list(source)) == (4 if path.suffix == ".mp4" else 1)


def test_one_bad_source_among_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (here / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42 no video")
    assert detect("bad.png", "bad.mp4", "v.mp4", "--jsonl", "o.jsonl") == 1
    err = capsys.readouterr().err
    assert "bad.png" in err
    assert "bad.mp4" in err
    assert sources(here / "o.jsonl") == ["v.mp4"]


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("7", "trt-afdet run /dev/video7"),
        ("/dev/video93", "trt-afdet run /dev/video93"),
        ("rtsp://10.0.0.5/stream", "trt-afdet run rtsp://10.0.0.5/stream"),
        ("RTSP://10.0.0.5/stream", "trt-afdet run RTSP://10.0.0.5/stream"),
        ("http://cam/video?a=1&b=2", "trt-afdet run 'http://cam/video?a=1&b=2'"),
        ("https://cam/snap.jpg", "trt-afdet run https://cam/snap.jpg"),
        ("udp://239.0.0.1:5000", "trt-afdet run udp://239.0.0.1:5000"),
        ("test://?fps=10", "trt-afdet run 'test://?fps=10'"),
        ("1=v.mp4", "trt-afdet run 1=v.mp4"),
        ("door=rtsp://cam/1", "trt-afdet run door=rtsp://cam/1"),
        ("cameras.yaml", "trt-afdet run cameras.yaml"),
    ],
)
def test_cameras_lead_to_run(
    here: Path, word: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([word], ["a.jpg", word]):
        assert detect(*words) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert line.rstrip().endswith(command)


@pytest.mark.parametrize("word", ["rtsp://u:geheim@cam/1", "http://cam/?token=geheim"])
def test_no_secret_is_repeated(here: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect(word) == 2
    assert "geheim" not in capsys.readouterr().err


@pytest.mark.parametrize("word", ["", "-", "none.png", "none/", "none*.png", "pipe", "null", "m.d"])
def test_what_is_not_there_or_no_file(
    here: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    Path("null").symlink_to("/dev/null")
    Path("m.d").mkdir()
    assert detect(word) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "Traceback" not in line


@pytest.mark.parametrize("out", ["-", "pipe", "null", "o.mp4", "o.png"])
def test_outputs_that_cannot_hold_a_folder(
    here: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    Path("null").symlink_to("/dev/null")
    assert detect("a.jpg", "v.mp4", "--out", out) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_json_lines_alone_are_on_standard_output(here: Path) -> None:
    command = [sys.executable, "-m", "trt_afdet", "detect", "a.jpg", "v.mp4", "--model", "m.onnx"]
    for target in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        done = subprocess.run([*command, "--jsonl", target], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == 5
        assert "frames in" in done.stderr
    assert not (here / "-").exists()


def test_a_reader_that_has_enough(here: Path) -> None:
    python = shlex.quote(sys.executable)
    command = f"{python} -m trt_afdet detect *.png v.mp4 --model m.onnx --jsonl - | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_window_without_a_screen_is_one_line(here: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if "DISPLAY" not in k}
    broken = {**environment, "DISPLAY": ":987"}
    for variables in (environment, broken):
        done = subprocess.run(
            [sys.executable, "-m", "trt_afdet", "detect", "a.jpg", "--model", "m.onnx", "--show"],
            env=variables,
            capture_output=True,
            text=True,
        )
        headless = "GUI:                           NONE" in cv2.getBuildInformation()
        assert done.returncode == (2 if headless else 1)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("trt-afdet: error: ")
