"""Threads that may be inside a library, and their end before Python's own.

A thread that comes back from FFmpeg, GStreamer or a driver while Python finalizes crashes the
process: PyAV asks Python for the time whenever FFmpeg waits, also after there is no Python left. So
every thread of this package that calls such a library is a :class:`Worker`. However the program
ends, :func:`leave` runs first (``atexit``): it interrupts all workers and waits for them. Where a
library does not return in time, the process ends without running through Python's finalization.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger("trt_afdet.stream")

#: Seconds that the command line waits for libraries at its end, and that any other program does.
COMMAND_WAITS = 1.5
PROGRAM_WAITS = 5.0

_here = threading.local()
_lock = threading.Lock()
_at_work: set[_AtWork] = set()


class _AtWork:
    """Work that must end before Python does."""

    def __init__(self, name: str, stop: Callable[[], object]) -> None:
        self.name = name
        self.done = threading.Event()
        self._stop: Callable[[], object] | None = stop

    def stop(self) -> None:
        if (stop := self._stop) is not None:
            stop()

    def enter(self) -> None:
        with _lock:
            _at_work.add(self)

    def exit(self) -> None:
        """It has ended: it holds nothing any more, and whoever waits finds it gone."""
        self._stop = None
        with _lock:
            _at_work.discard(self)
        self.done.set()


class Worker(threading.Thread):
    """A daemon thread that can be interrupted while PyAV waits, and is waited for at the end.

    Args:
        target, args: What it runs; None for a subclass that overrides ``work``.
        name: For people; without credentials.
        on_exit: Called at the end of the program, from the main thread, besides :meth:`interrupt`;
            must return at once.

    Attributes:
        interrupted: Set once it should end.
    """

    def __init__(
        self,
        target: Callable[..., object] | None = None,
        *,
        name: str,
        args: tuple[Any, ...] = (),
        on_exit: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
        self.interrupted = threading.Event()
        self._on_exit = on_exit
        self._entry = _AtWork(name, self._end)

    def start(self) -> None:
        self._entry.enter()
        try:
            super().start()
        except BaseException:
            self._entry.exit()
            raise

    def interrupt(self) -> None:
        """Makes whatever it waits for in PyAV return soon. From any thread."""
        self.interrupted.set()

    def _end(self) -> None:
        self.interrupted.set()
        if self._on_exit is not None:
            self._on_exit()

    def run(self) -> None:
        _here.worker = self
        try:
            self.work()
        finally:
            self._entry.exit()
            self._on_exit = None  # A connection must not wait for the garbage collector.

    def work(self) -> None:
        """The work of subclasses without a target."""
        super().run()


def interrupted() -> bool:
    """Whether the worker that asks should end."""
    worker = getattr(_here, "worker", None)
    return worker is not None and bool(worker.interrupted.is_set())


@contextmanager
def at_work(name: str, stop: Callable[[], object]) -> Iterator[None]:
    """For work in a thread that somebody else started: ``stop`` is called at the program's end.

    Does nothing in the main thread.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    entry = _AtWork(name, stop)
    entry.enter()
    try:
        yield
    finally:
        entry.exit()


def leave(within: float) -> list[str]:
    """Ends all work and waits for it, at most ``within`` seconds.

    Returns the names of threads that are still inside a library.
    """
    deadline = time.monotonic() + within
    told: set[_AtWork] = set()
    while True:
        with _lock:
            left = list(_at_work)
        for entry in left:
            if entry not in told:
                told.add(entry)
                try:
                    entry.stop()
                except Exception:
                    log.debug("%s: cannot be told to end", entry.name, exc_info=True)
        if not left or time.monotonic() >= deadline:
            return sorted(entry.name for entry in left)
        # In steps: what ends may have started something else meanwhile.
        left[0].done.wait(min(0.1, max(0.0, deadline - time.monotonic())))


def end_process(status: int) -> int:
    """The end of a command: the status if Python may finalize; else the process ends here.

    The latter happens where a library does not return within :data:`COMMAND_WAITS`: ``atexit``
    functions are run and output is flushed as usual.
    """
    if not (left := leave(COMMAND_WAITS)):
        return status
    log.debug("left inside a library: %s", ", ".join(left))
    atexit.unregister(_at_exit)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _at_exit() -> None:
    if leave(PROGRAM_WAITS):
        # The status of the program is not known here. glibc knows it: its "on_exit" ends the
        # process before the exit handlers of libraries run.
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.on_exit(libc._exit, None)


atexit.register(_at_exit)


class _Clock:
    """Stands for the module ``time`` in PyAV, whose interrupt callback compares it with a deadline.

    In an interrupted worker every deadline has passed.
    """

    _far = itertools.count(1e12, 1e9)

    def monotonic(self) -> float:
        return float(next(self._far)) if interrupted() else time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def make_interruptible(av: Any) -> None:
    """Lets :meth:`Worker.interrupt` end the waiting of PyAV.

    PyAV offers no other way: its callback knows a deadline only. Where it does not look the time
    up as it does now (tested), waiting ends with the timeouts of the source.
    """
    core = av.container.core
    if getattr(core, "time", None) is time:
        core.time = _Clock()


def resolve(host: str) -> None:
    """Looks a host's name up, which no library can be interrupted in; OSError if there is none."""
    socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
