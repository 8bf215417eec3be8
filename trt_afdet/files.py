"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trt_afdet.errors import AfdetError, CorruptFileError, MissingFileError, WriteError

_HINTS: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota is used up",
    errno.EFBIG: "the file would exceed the largest size allowed",
    errno.EACCES: "is the folder writable?",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a part of the path is a file",
}


def write_error(path: Path, error: OSError) -> WriteError:
    """What to raise when ``path`` cannot be written."""
    return WriteError(
        "cannot write", got=f"{path}: {error.strerror or error}", hint=_HINTS.get(error.errno)
    )


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; takes its place when the block ends well.

    The suffix is kept, because writers choose their format by it.

    Raises:
        WriteError: If the disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, AfdetError):
            raise
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically.

    Raises:
        WriteError: See :func:`atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_model_path(path: Path) -> None:
    """Checks that there is a model file, whatever it holds.

    Raises:
        MissingFileError: If there is none.
        CorruptFileError: If it is empty.
    """
    if not path.is_file():
        raise MissingFileError(
            "there is no such model", got=path, hint="give the path of an exported model.onnx"
        )
    if path.stat().st_size == 0:
        raise CorruptFileError("the model file is empty", got=path)
