"""A reader sees the old file or the whole new one, whatever happens while it is written."""

from __future__ import annotations

import os
import pty
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from trt_afdet.errors import RunError, WriteError
from trt_afdet.support.files import (
    atomic_path,
    check_output,
    data_on_stdout,
    is_stdout,
    open_output,
    output_file,
    write_text,
)


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
from trt_afdet.support.files import write_text

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


def _by_path(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _by_stream(path: Path, text: str) -> None:
    with open_output(path) as file:
        file.write(text)


def _by_bytes(path: Path, text: str) -> None:
    with open_output(path, "wb") as file:
        file.write(text.encode())


WRITERS = pytest.mark.parametrize("write", [write_text, _by_path, _by_stream, _by_bytes])
Write = Callable[[Path, str], None]


@WRITERS
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o755, 0o444])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, write: Write, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    write(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@WRITERS
def test_a_new_file_has_the_mode_that_the_user_set(tmp_path: Path, write: Write) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root: run as root")
def test_root_keeps_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    os.chown(path, 65534, 65534)
    write_text(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


@WRITERS
@pytest.mark.parametrize("kind", ["link", "link to link", "dangling", "absolute", "linked folder"])
def test_the_file_behind_a_link_is_replaced(tmp_path: Path, write: Write, kind: str) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "links").mkdir()
    real, link = tmp_path / "far" / "real.txt", tmp_path / "links" / "a.txt"
    if kind != "dangling":
        real.write_text("old")
        real.chmod(0o600)
    if kind == "link to link":
        (tmp_path / "second").symlink_to("far/real.txt")
        link.symlink_to("../second")
    elif kind == "linked folder":
        (tmp_path / "folder").symlink_to("far")
        link.symlink_to("../folder/real.txt")
    else:
        link.symlink_to(real if kind == "absolute" else "../far/real.txt")
    write(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    if kind != "dangling":
        assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["real.txt"]
    assert [p.name for p in (tmp_path / "links").iterdir()] == ["a.txt"]


@contextmanager
def _reader(kind: str, path: Path) -> Iterator[Callable[[], str]]:
    """Makes ``path`` a target that is not a file; what it got is returned by the function."""
    with ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
            got: list[str] = []
            thread = threading.Thread(target=lambda: got.append(path.read_text()))
            thread.start()

            def from_fifo() -> str:
                thread.join(60)
                return "".join(got)

            yield from_fifo
        elif kind == "socket":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            # The path of a socket has a short limit of its own.
            server.bind(f"/proc/self/fd/{_folder(stack, path.parent)}/{path.name}")
            server.listen()

            def from_socket() -> str:
                connection, _ = server.accept()
                with connection, connection.makefile("r") as file:
                    return file.read()

            yield from_socket
        elif kind in ("pipe", "open socket"):
            if kind == "pipe":
                reading, writing = os.pipe()
            else:
                pair = socket.socketpair()
                reading, writing = pair[0].detach(), pair[1].detach()
            path.symlink_to(f"/dev/fd/{writing}")

            def from_pipe() -> str:
                os.close(writing)
                with os.fdopen(reading) as file:
                    return file.read()

            yield from_pipe
        elif kind == "terminal":
            main, other = pty.openpty()
            path.symlink_to(os.ttyname(other))
            yield lambda: os.read(main, 1000).decode().replace("\r\n", "\n")
            os.close(main)
            os.close(other)
        elif kind == "file of the shell":
            # As in `{ echo head; trt-afdet ... --jsonl /dev/stdout; } > all.txt`.
            all_of_it = path.with_name("all.txt")
            fd = os.open(all_of_it, os.O_WRONLY | os.O_CREAT)
            os.write(fd, b"head\n")
            path.symlink_to(f"/proc/self/fd/{fd}")

            def from_file() -> str:
                os.close(fd)
                text = all_of_it.read_text()
                assert text.startswith("head\n")
                return text.removeprefix("head\n")

            yield from_file
        else:
            path.symlink_to(f"/dev/{kind}")
            yield lambda: "some\ntext\n"


def _folder(stack: ExitStack, path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd


@WRITERS
@pytest.mark.parametrize(
    "kind",
    ["fifo", "socket", "pipe", "open socket", "terminal", "file of the shell", "null", "zero"],
)
def test_what_is_no_file_is_written_to(tmp_path: Path, write: Write, kind: str) -> None:
    path = tmp_path / "target"
    with _reader(kind, path) as got:
        before = path.lstat()
        check_output(path)
        write(path, "some\ntext\n")
        assert got() == "some\ntext\n"
        after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert {p.name for p in tmp_path.iterdir()} <= {"target", "all.txt"}


@WRITERS
def test_a_device_that_is_full(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "target"
    path.symlink_to("/dev/full")
    with pytest.raises(WriteError, match="the disk is full"):
        write(path, "text\n")
    assert path.is_symlink()


@WRITERS
def test_a_minus_is_standard_output(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    print("before")
    with data_on_stdout(Path("-")):
        print("for people")
        write(Path("-"), "data\n")
    with data_on_stdout(None, Path("a.txt")):
        print("after")
    out, err = capfd.readouterr()
    assert out == "before\ndata\nafter\n"
    assert err == "for people\n"
    assert list(tmp_path.iterdir()) == []


def test_a_minus_where_standard_output_is_pythons_own(capsys: pytest.CaptureFixture[str]) -> None:
    with data_on_stdout(Path("-")):
        write_text("-", "data\n")
    assert capsys.readouterr().out == "data\n"


def test_names_of_standard_output(tmp_path: Path) -> None:
    link = tmp_path / "out"
    link.symlink_to("/dev/stdout")
    for path in (Path("-"), Path("/dev/stdout"), Path("/dev/fd/1"), Path("/proc/self/fd/1"), link):
        assert is_stdout(path)
    for other in (None, Path("/dev/null"), Path("/dev/stderr"), tmp_path / "1", Path("a/-")):
        assert not is_stdout(other)


@pytest.mark.parametrize("text", ["", "folder/", "a/b//"])
def test_a_name_of_no_file(text: str) -> None:
    with pytest.raises(WriteError, match="names no file"):
        output_file(text)


def test_a_file_that_is_called_minus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(output_file("./-"), "text")
    assert (tmp_path / "-").read_text() == "text"
    assert output_file("-") == Path("-")


@WRITERS
def test_what_cannot_be_written_is_one_line(tmp_path: Path, write: Write) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "loop").symlink_to("loop")
    closed = os.open(os.devnull, os.O_RDONLY)
    (tmp_path / "reading").symlink_to(f"/dev/fd/{closed}")
    (tmp_path / "nobody").symlink_to("/proc/self/fd/987654")
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"/proc/self/cwd/{os.path.relpath(tmp_path / 'left')}")
    left.close()
    before = sorted(p.name for p in tmp_path.iterdir())
    for name in (".", "file/a.txt", "file/b/a.txt", "loop", "reading", "nobody", "left"):
        with pytest.raises(WriteError) as caught:
            write(tmp_path / name, "text")
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    os.close(closed)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run as an ordinary user")
@WRITERS
def test_a_folder_that_is_not_ours(tmp_path: Path, write: Write) -> None:
    tmp_path.chmod(0o555)
    try:
        for path in (tmp_path / "a.txt", tmp_path / "new" / "a.txt"):
            with pytest.raises(WriteError, match="is the folder writable"):
                check_output(path)
            with pytest.raises(WriteError, match="is the folder writable"):
                write(path, "text")
    finally:
        tmp_path.chmod(0o755)


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".txt")
    write_text(path, "text")
    assert path.read_text() == "text"
    with pytest.raises(WriteError, match="too long"):
        write_text(tmp_path / ("a" * 300), "text")


def _write_often(path: Path, letter: str) -> None:
    for _ in range(200):
        write_text(path, letter * 1000)


def test_two_processes_that_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    context = get_context("spawn")
    processes = [context.Process(target=_write_often, args=(path, n)) for n in "ab"]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        if path.exists():
            assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_nobody_can_put_a_link_where_the_temporary_file_will_be(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with atomic_path(tmp_path / "a.txt") as temporary:
            names.add(temporary.name)
            assert temporary.name.startswith(".")
            assert str(os.getpid()) not in temporary.name.split(".")
    assert len(names) == 3


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_path(path) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_an_error_that_is_not_the_outputs_keeps_its_name(tmp_path: Path) -> None:
    def read_missing() -> None:
        with open_output(tmp_path / "a.txt") as file:
            file.write((tmp_path / "source").read_text())

    with pytest.raises(FileNotFoundError) as caught:
        read_missing()
    assert not isinstance(caught.value, WriteError)
    assert list(tmp_path.iterdir()) == []
