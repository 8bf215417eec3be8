"""The cache of downloads: filled once per machine, atomically, and safe with other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.plugins import tensorrt_parts
from tests.plugins.tensorrt_parts import PartMissingError, _cached

TWO_AT_ONCE = """
import sys
from pathlib import Path
from tests.plugins.tensorrt_parts import _cached
def make(folder):
    (folder / "part").write_text("whole")
    with Path(sys.argv[1]).open("a") as file:
        file.write("made\\n")
print("ready", flush=True)
sys.stdin.readline()
print(_cached("NOT_SET", "parts", make))
"""


def test_processes_share_one_making(tmp_path: Path) -> None:
    made = tmp_path / "made"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_AT_ONCE, str(made)],
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(tmp_path / "cache dir"),
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = [process.communicate("go\n")[0] for process in processes]
    assert len(set(said)) == 1
    assert (Path(said[0].strip()) / "part").read_text() == "whole"
    assert made.read_text() == "made\n"


def test_what_fails_is_asked_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt_parts, "_FAILED", {})
    asked = []

    def make(folder: Path) -> None:
        (folder / "half").touch()
        asked.append(1)
        raise PartMissingError("the parts cannot be fetched", "a run with a package index")

    for _ in range(2):
        with pytest.raises(PartMissingError, match="cannot be fetched"):
            _cached("NOT_SET", "parts", make)
    assert asked == [1]
    assert [p.name for p in (tmp_path / "trt-afdet").iterdir()] == [".parts.lock"]


def test_without_a_home_to_write_to_the_parts_go_to_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tensorrt_parts.tempfile, "tempdir", str(tmp_path))
    made = _cached("NOT_SET", "parts", lambda folder: None)
    assert made.parent.name == f"trt-afdet-tests-{os.getuid()}"
