"""Names that the system takes and programs stumble over, and things that are not files."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.paths import ROOT
from trt_afdet.cli import main
from trt_afdet.engine.sample_pictures import open_pictures
from trt_afdet.errors import AfdetError, CorruptFileError, MissingFileError
from trt_afdet.media import open_inputs, probe_picture, read_picture

#: Of a picture, without its suffix. ``\udce9`` is a byte that is not UTF-8.
NAMES = {
    "line break": "a\nb",
    "tab": "a\tb",
    "percent": "50%41",
    "hash": "a#b",
    "question mark": "a?b",
    "colon": "a:b",
    "like a scheme": "http:b",
    "pattern": "a*[1]",
    "equals": "a=b",
    "comma": "a,b",
    "spaces": "  a b ",
    "dash": "-a",
    "quotes": "a\"b'c",
    "backslash": "a\\b",
    "dollar": "$HOME `a`",
    "escape": "\x1b[31mred",
    "right to left": "\u202eb",
    "letters": "ü漢字😀",
    "combining": "u\u0308",
    "longest": "n" * 251,
    "no UTF-8": "caf\udce9",
}
JSONL = "found.jsonl"


def picture(path: Path) -> Path:
    path.write_bytes(cv2.imencode(".png", np.full((32, 48, 3), 9, np.uint8))[1].tobytes())
    return path


def sources(path: Path) -> list[str]:
    """What the records say; the file must be UTF-8."""
    lines = path.read_bytes().decode("utf-8").splitlines()
    return [record["source"] for record in map(json.loads, lines) if record.get("type") != "status"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    path = picture(folder / f"{NAMES[name]}.png")
    for out, given in (("out_1", path), ("out_2", folder)):
        assert main(["detect", str(given), "--jsonl", JSONL, "--out", out]) == 0
        assert sources(tmp_path / JSONL) == [str(path)]
    arguments = [str(folder), "--sink", "jsonl:run.jsonl", "--sink", "csv:run.csv", "--quiet"]
    assert main(["run", *arguments]) == 0
    assert main(["run", f"cam={path}", "--sink", "jsonl:two.jsonl", "--quiet"]) == 0
    assert sources(tmp_path / "two.jsonl") == ["cam"]
    assert len(open_pictures(folder)) == 1
    with open_inputs(path) as source:
        assert len(list(source)) == 1
    capsys.readouterr()
    # A refusal is one line that does nothing to the terminal.
    path.write_bytes(b"hello")
    assert main(["detect", str(path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.removesuffix("\n").isprintable()


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "sch\udcf6n"
    folder.mkdir()
    path = picture(folder / "a.png")
    out = tmp_path / "run.csv"
    uris = ["--sink", f"jsonl:{tmp_path / 'run.jsonl'}", "--sink", f"csv:{out}"]
    assert main(["run", str(folder), *uris, "--quiet", "--conf", "0.01"]) == 0
    assert sources(tmp_path / "run.jsonl") == [str(folder)] or sources(tmp_path / "run.jsonl")
    list(csv.reader(out.read_bytes().decode("utf-8").splitlines()))
    assert main(["detect", str(path), "--jsonl", str(tmp_path / JSONL), "--resume"]) == 0
    assert sources(tmp_path / JSONL) == [str(path)]


def test_what_is_printed_of_a_name_that_is_no_text(tmp_path: Path) -> None:
    name = os.fsencode(picture(tmp_path / "caf\udce9.png"))
    command = [sys.executable, "-X", "utf8", "-m", "trt_afdet", "detect", name]
    command += ["--out", b"out\xff", "--jsonl", "-"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["source"] == os.fsdecode(name)
    assert rb"out\udcff" in done.stderr
    assert (tmp_path / "out\udcff" / "caf\udce9.png").is_file()


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to("nowhere.png")
    return path


NO_FILES: dict[str, Callable[[Path], Path]] = {
    "pipe": lambda folder: _pipe(folder / "pipe"),
    "pipe.png": lambda folder: _pipe(folder / "pipe.png"),
    "pipe.mp4": lambda folder: _pipe(folder / "pipe.mp4"),
    "loop": lambda folder: _loop(folder / "loop.png"),
    "dangling": lambda folder: _dangling(folder / "dangling.png"),
    "below a file": lambda folder: picture(folder / "a.png") / "b.png",
    "too long": lambda folder: folder / ("x" * 300),
    "much too long": lambda folder: folder / ("x" * 5000 + ".mp4"),
    "null": lambda folder: Path("/dev/null"),
    "zero": lambda folder: Path("/dev/zero"),
    "random": lambda folder: Path("/dev/urandom"),
    "empty folder": lambda folder: folder,
}


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name a socket's address has room for."""
    return tmp_path_factory.mktemp("s")


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_one_line_and_nothing_hangs(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = NO_FILES[name](tmp_path)
    model = ROOT / "trt_afdet" / "assets" / "model.onnx"
    for command in (
        ["detect", str(path)],
        ["run", str(path), "--quiet"],
        ["eval", str(model), str(path)],
        ["data", "check", str(path)],
    ):
        assert main(command) in (1, 2), command
        errors = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("trt-afdet:")
        ]
        assert len(errors) == 1, command


@pytest.mark.parametrize("read", [read_picture, probe_picture])
@pytest.mark.parametrize("name", [n for n in NO_FILES if n != "empty folder"])
def test_the_picture_reader_takes_files_only(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    with pytest.raises((MissingFileError, CorruptFileError)):
        read(NO_FILES[name](tmp_path))


def test_a_socket_is_no_picture(short: Path) -> None:
    with pytest.raises(MissingFileError, match="socket or device"):
        read_picture(_socket(short / "s.png"))


def test_a_folder_with_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _pipe(tmp_path / "pipe.png")
    _loop(tmp_path / "loop.png")
    _dangling(tmp_path / "dangling.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "self").symlink_to(".")
    picture(tmp_path / "whole.png")
    out = tmp_path / JSONL
    for given in (tmp_path, tmp_path / "*.png"):
        assert main(["detect", str(given), "--jsonl", str(out)]) == 0
        assert [Path(source).name for source in sources(out)] == ["whole.png"]
    assert len(open_pictures(tmp_path)) == 1
    assert capsys.readouterr().err.count("whole") == 0


def test_files_that_vanish_before_they_are_read(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    with open_inputs(tmp_path) as source:
        (tmp_path / "1.png").unlink()
        assert [frame.path.name for frame in source] == ["0.png", "2.png"]
        assert len(source.failed) == 1
    pictures = open_pictures(tmp_path)
    (tmp_path / "2.png").unlink()
    assert [index for index, _ in pictures] == [0]
    assert all(isinstance(error, AfdetError) for error in pictures.skipped.values())
