"""Writes files: the one place that interprets output paths.

A path that a user names may be a file, a link to one, a device, a pipe, a socket, an open
descriptor (``/dev/stdout``, ``/dev/fd/3``) or ``-`` for standard output. Files are replaced whole
or not at all, and links stay links; everything else is written to directly.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, TextIO

from trt_afdet.errors import AfdetError, CorruptFileError, MissingFileError, WriteError

#: The name of standard output; a file of this name is ``./-``.
STDOUT = Path("-")

_HINTS: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota is used up",
    errno.EFBIG: "the file would exceed the largest size allowed",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "is the folder writable?"),
    errno.EROFS: "the file system is read-only",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file"),
    errno.EISDIR: "name a file in it",
    errno.EBUSY: "is the file itself a mount? mount its folder instead",
    errno.EBADF: "this descriptor is not open for writing",
    **dict.fromkeys((errno.ENXIO, errno.ECONNREFUSED), "nothing reads from it"),
}

#: What becomes of bytes in a file's name that are not UTF-8: an escape, which JSON's readers undo.
TEXT_ERRORS = "backslashreplace"

# Folders whose entries are the open descriptors of this process.
_DESCRIPTORS = re.compile(r"/proc/(?:self|thread-self|(?P<pid>\d+))(?:/task/\d+)?/fd")

_temporaries: set[Path] = set()  # Files and folders that are in use.

#: Standard output as it was before :func:`data_on_stdout` gave its place to standard error.
_data_stream: TextIO | None = None


def write_error(path: Path, error: OSError) -> WriteError:
    """What to raise when ``path`` cannot be written."""
    got = f"{path}: {error.strerror or error}"
    return WriteError("cannot write", got=got, hint=_HINTS.get(error.errno))


def write_whole(file: int, data: bytes) -> None:
    """Writes all of ``data`` to the end of an open file; after an OSError nothing of it is left."""
    written = 0
    try:
        while written < len(data):
            written += os.write(file, memoryview(data)[written:])
    except OSError:
        about = os.fstat(file)
        if written and stat.S_ISREG(about.st_mode):
            os.ftruncate(file, about.st_size - written)
        raise


def output_file(text: str) -> Path:
    """The argparse type of an option that names a file to write; ``-`` is standard output."""
    path = Path(text)
    if not text or text.endswith(os.sep):
        got = f"{text or 'an empty name'}: it names no file"
        raise WriteError("cannot write", got=got, hint="name a file")
    return path.absolute() if path == STDOUT and text != "-" else path


def is_stdout(path: Path | None) -> bool:
    """Whether writing to ``path`` is writing to standard output."""
    with suppress(OSError):
        return path is not None and _resolve(path) == 1
    return False


def is_file_target(path: Path) -> bool:
    """Whether writing to ``path`` makes or replaces a file; False for devices, pipes and ``-``."""
    with _errors_of(path):
        return isinstance(_target(path), Path)


@contextmanager
def data_on_stdout(*paths: Path | None) -> Iterator[None]:
    """Sends printed text to standard error if data go to standard output, one of ``paths``."""
    global _data_stream
    if not any(is_stdout(path) for path in paths):
        yield
        return
    before, _data_stream = _data_stream, _data_stream or sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _data_stream = before


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary file to write to, whose content is at ``path`` when the block ends well.

    A file is replaced whole, and keeps its mode and, where that is allowed, its owner; for a link
    that is the file behind it. A device, a pipe, a socket, a descriptor or standard output (``-``)
    gets the content at the end of the block. The suffix is kept, because writers choose their
    format by it. Nothing is left of a block that raises.

    Raises:
        WriteError: If the target is a folder or cannot be written.
    """
    path = Path(path)
    with _errors_of(path):
        target = _target(path)
        if isinstance(target, Path):
            with _replacing(target) as temporary:
                yield temporary
            return
        folder = Path(tempfile.mkdtemp(prefix="trt-afdet-"))
        _temporaries.add(folder)
        try:
            temporary = folder / f"output{path.suffix}"
            yield temporary
            with temporary.open("rb") as content, _open_special(target) as file:
                shutil.copyfileobj(content, file)
        finally:
            _remove(folder)


@contextmanager
def open_output(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens an output for writing, as text in UTF-8 ("w") or as bytes ("wb").

    A file appears when the block ends well, see :func:`atomic_path`; a device, a pipe, a socket, a
    descriptor or standard output (``-``) gets each line (each write, if bytes) at once.
    """
    path = Path(path)
    coding: Any = {} if "b" in mode else {"encoding": "utf-8", "errors": TEXT_ERRORS}
    with _errors_of(path):
        target = _target(path)
        if isinstance(target, Path):
            with _replacing(target) as temporary, temporary.open(mode, **coding) as file:
                yield file
                file.flush()
            return
        with _open_special(target) as binary:
            if not coding:
                yield binary
                return
            text = io.TextIOWrapper(binary, line_buffering=True, **coding)
            try:
                yield text
                text.flush()
            finally:
                with suppress(OSError, ValueError):
                    text.detach()


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file; see :func:`open_output`."""
    with open_output(path) as file:
        file.write(text)


def check_output(path: Path | str) -> None:
    """Raises WriteError if ``path`` cannot be written, before work begins whose result it holds."""
    path = Path(path)
    with _errors_of(path):
        target = _target(path)
        if isinstance(target, Path):
            # Folders that are missing are made with the file.
            folder = next(parent for parent in target.parents if parent.exists())
            _remove(_create_beside(folder / target.name))


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (AfdetError, BrokenPipeError):
        raise
    except OSError as error:
        if error.filename is not None and not _is_part_of(path, Path(os.fsdecode(error.filename))):
            raise
        raise write_error(path, error) from error


def _is_part_of(path: Path, name: Path) -> bool:
    """Whether an error about ``name`` is one of the output: a file that was read is not."""
    if "trt-afdet-" in name.parent.name or (name.name.startswith(".") and ".tmp" in name.name):
        return True
    try:
        target = _resolve(path)
    except OSError:
        return True
    return name == path or (isinstance(target, Path) and name in (target, *target.parents))


def _resolve(path: Path) -> Path | int:
    """Where links lead: a path that is not a link, or the number of a descriptor of this process.

    A descriptor is found before its link is followed: the link of ``/dev/stdout`` may lead to a
    file, which the shell has opened at a place that must be kept.
    """
    if path == STDOUT:
        return 1
    for _ in range(40):
        folder = os.path.realpath(path.parent)
        match = _DESCRIPTORS.fullmatch(folder)
        if match and path.name.isdigit():
            own = match["pid"] in (None, str(os.getpid()))
            return int(path.name) if own else Path(folder, path.name)
        path = Path(folder, path.name)
        if not path.is_symlink():
            return path
        path = Path(folder, path.readlink())
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


class _Special(NamedTuple):
    """A target that is written to directly: a path that is not a file, or a descriptor."""

    place: Path | int


def _target(path: Path) -> Path | _Special:
    """What ``path`` means: a file to replace (or to make), or something to write to."""
    resolved = _resolve(path)
    if isinstance(resolved, int):
        return _Special(resolved)
    try:
        mode = resolved.stat().st_mode
    except FileNotFoundError:
        return resolved
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # The descriptor of another process is a link, but the file is not ours to replace.
    is_file = stat.S_ISREG(mode) and not resolved.is_symlink()
    return resolved if is_file else _Special(resolved)


@contextmanager
def _open_special(special: _Special) -> Iterator[BinaryIO]:
    """Opens a device, pipe, socket or descriptor for bytes."""
    place = special.place
    if place == 1:
        stdout = _data_stream or sys.stdout
        stdout.flush()
        try:
            place = stdout.fileno()
        except (OSError, AttributeError):  # A stream of Python's own, as in a notebook or a test.
            yield stdout.buffer
            stdout.flush()
            return
    if isinstance(place, int):
        fd = os.dup(place)
    elif stat.S_ISSOCK(place.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(place))
            fd = connection.detach()
    else:
        fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    file = os.fdopen(fd, "wb")
    try:
        yield file
        file.flush()
    finally:
        # What could not be flushed was reported; closing would try again.
        with suppress(OSError):
            file.close()


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside ``target`` that takes its place when the block ends well."""
    temporary = _create_beside(target)
    try:
        yield temporary
        with suppress(FileNotFoundError):
            _copy_rights(target.stat(), temporary)
        temporary.replace(target)
    finally:
        _remove(temporary)


def remove_temporaries() -> None:
    """Removes the temporary files of this process whose blocks a signal did not let end."""
    for temporary in list(_temporaries):
        _remove(temporary)


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    _temporaries.discard(temporary)


def _create_beside(target: Path) -> Path:
    """An empty file in the folder of ``target``, of a name that nobody else has or can guess."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Only the owner reads what will replace a file: it may be private.
    mode = 0o600 if target.exists() else 0o666
    while True:
        name = f".{target.stem[:40]}.{secrets.token_hex(8)}.tmp{target.suffix[:40]}"
        temporary = target.with_name(name)
        _temporaries.add(temporary)
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
            return temporary
        except OSError as error:
            _temporaries.discard(temporary)
            if not isinstance(error, FileExistsError):  # That is somebody else's.
                raise


def _copy_rights(about: os.stat_result, to: Path) -> None:
    """Gives ``to`` the mode and, where that is allowed, the owner of the file it replaces."""
    now = to.stat()
    if (now.st_uid, now.st_gid) != (about.st_uid, about.st_gid):
        with suppress(OSError):
            os.chown(to, about.st_uid, about.st_gid)
    to.chmod(stat.S_IMODE(about.st_mode))


def check_model_path(path: Path) -> None:
    """Raises MissingFileError if there is no model file, CorruptFileError if it is empty."""
    if not path.is_file():
        hint = "give the path of an exported model.onnx"
        raise MissingFileError("there is no such model", got=path, hint=hint)
    if path.stat().st_size == 0:
        raise CorruptFileError("the model file is empty", got=path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises MissingFileError if there is none."""
    if not path.is_file():
        raise MissingFileError("no such file", got=path)
    import hashlib  # 6 ms, which every command would pay

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
