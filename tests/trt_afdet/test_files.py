"""A reader sees the old file or the whole new one, whatever happens while it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trt_afdet.errors import RunError, WriteError
from trt_afdet.files import atomic_path, write_text


def test_the_file_appears_whole_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf8_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "Müller")
    assert path.read_bytes() == "Müller".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RunError("no"), KeyError("no"), KeyboardInterrupt()])
def test_a_failure_inside_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_or_a_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(WriteError) as caught:
            write_text(path, "text")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from trt_afdet.errors import WriteError
from trt_afdet.evaluation.plots import plot_confusion
from trt_afdet.files import write_text

folder = Path(sys.argv[1])
matrix = np.zeros((2, 2), np.int64)
plot_confusion(matrix, ("cat",), folder / "a.png")
write_text(folder / "a.txt", "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (
    lambda: write_text(folder / "a.txt", "x" * 100_000),
    lambda: plot_confusion(matrix, ("dog",), folder / "a.png"),
    lambda: plot_confusion(matrix, ("dog",), folder / "b.png"),
):
    try:
        write()
    except WriteError as error:
        print(error)
"""


def test_no_room_left(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses the write."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("cannot write") and "largest size allowed" in line for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.png").read_bytes().endswith(b"IEND\xaeB`\x82")
