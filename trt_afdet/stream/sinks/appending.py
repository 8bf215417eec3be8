"""A file that only grows, by whole records, whatever happens to the process or the disk."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from trt_afdet.errors import AfdetError, CorruptFileError, RunError
from trt_afdet.support.fields import unknown_choice
from trt_afdet.support.files import write_error, write_whole

#: When data is forced onto the disk. never: the kernel decides (a power cut may cost half a
#: minute). second: at most a second later. always: before ``append`` returns. A kill of the process
#: costs nothing under any of them.
Fsync = Literal["never", "second", "always"]

#: A torn end is never longer; more than that is damage of another kind, and not cut off.
LONGEST_TORN = 16 << 20


class AppendingFile:
    """Appends records to a file that no other process may open so at the same time.

    A record is one or more lines, written with one call; what a kill or a power cut left of an
    incomplete one is cut off at the next :meth:`open`. If the file is moved away (logrotate), the
    next record begins a new one. Devices and pipes are written to as they are.

    Files that do not begin with ``start`` are refused; an empty one gets the ``header``.
    ``complete`` says whether a line (without its end) closes a record.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: bytes,
        complete: Callable[[bytes], bool],
        header: bytes = b"",
        fsync: Fsync = "second",
    ) -> None:
        if fsync not in get_args(Fsync):
            raise unknown_choice(fsync, get_args(Fsync))
        self.path = path
        self._start, self._complete, self._header = start, complete, header
        self._fsync = fsync
        self._file = -1
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._dirty = False
        self._sync_error: OSError | None = None
        self._stop = threading.Event()
        self._syncer: threading.Thread | None = None

    def open(self) -> None:
        """Opens the file, made if missing; raises AfdetError if it is in use or something else."""
        self._open()
        if self._fsync == "second":
            name = f"fsync {self.path.name}"
            self._syncer = threading.Thread(target=self._sync_each_second, name=name, daemon=True)
            self._syncer.start()

    def append(self, record: bytes) -> None:
        """Writes a record, ends of lines included; all of it or nothing (WriteError)."""
        self._raise_sync_error()
        with self._errors():
            if self._identity is not None and self._moved():
                self._close_file()
                self._open()
            write_whole(self._file, record)
            if self._fsync == "always":
                self._sync()
        self._dirty = True

    def close(self) -> None:
        """Closes the file; with any policy but "never" everything is on the disk then."""
        self._stop.set()
        if self._syncer is not None:
            self._syncer.join()
        if self._file >= 0:
            with self._errors():
                self._close_file()
        self._raise_sync_error()

    def _raise_sync_error(self) -> None:
        if self._sync_error is not None:
            raise write_error(self.path, self._sync_error) from self._sync_error

    def _open(self) -> None:
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR if not self.path.exists() or self.path.is_file() else os.O_WRONLY
            self._file = os.open(self.path, flags | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._prepare()
            except BaseException:
                os.close(self._file)
                self._file = -1
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except AfdetError:
            raise
        except OSError as error:
            raise write_error(self.path, error) from error

    def _prepare(self) -> None:
        about = os.fstat(self._file)
        if not stat.S_ISREG(about.st_mode):
            self._identity = None
            write_whole(self._file, self._header)
            return
        self._identity = (about.st_dev, about.st_ino)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "another process writes to this file"
            raise RunError(what, got=self.path, hint="choose another name") from error
        self._repair(about.st_size)
        if os.fstat(self._file).st_size == 0:
            write_whole(self._file, self._header)
        if self._fsync != "never":
            self._sync()
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _repair(self, size: int) -> None:
        if size == 0:
            return
        with mmap.mmap(self._file, size, access=mmap.ACCESS_READ) as data:
            head = data[: len(self._start)]
            end = data.rfind(b"\n") + 1
            # A file that was cut within its first line begins with less, or zeros follow.
            torn_start = not end and self._start.startswith(head.rstrip(b"\0"))
            if head != self._start and not torn_start:
                what = "the file holds something else; nothing was added to it"
                raise CorruptFileError(what, got=self.path, hint="choose another name")
            while end > 0 and size - end <= LONGEST_TORN:
                start = data.rfind(b"\n", 0, end - 1) + 1
                if self._complete(data[start : end - 1]):
                    break
                end = start
        if size - end > LONGEST_TORN:
            what = "the end of the file is damaged; nothing was added to it"
            got = f"{self.path}: more than {LONGEST_TORN >> 20} MiB that are not records"
            raise CorruptFileError(what, got=got, hint="move it away")
        if end < size:
            os.ftruncate(self._file, end)

    def _moved(self) -> bool:
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return True
        return (about.st_dev, about.st_ino) != self._identity

    def _sync(self) -> None:
        if self._identity is not None:  # What cannot be synced (a pipe) need not be.
            os.fsync(self._file)

    def _sync_each_second(self) -> None:
        while not self._stop.wait(1.0):
            # The copy stays valid while the writing thread changes files.
            with self._lock:
                if not self._dirty or self._identity is None or self._file < 0:
                    continue
                self._dirty = False
                copy = os.dup(self._file)
            try:
                os.fsync(copy)
            except OSError as error:
                self._sync_error = error
                return
            finally:
                os.close(copy)

    def _close_file(self) -> None:
        try:
            if self._fsync != "never":
                self._sync()
        finally:
            with self._lock:
                os.close(self._file)
                self._file = -1
