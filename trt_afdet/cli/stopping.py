"""SIGTERM and SIGHUP end a command as Ctrl-C does: everything is closed, nothing is left over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from trt_afdet.support.files import remove_temporaries


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end; what closes its files on Ctrl-C closes them here too."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def exit_status(stop: KeyboardInterrupt) -> int:
    """The exit status after a signal, as shells expect it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (stop.number if isinstance(stop, Stopped) else int(signal.SIGINT))


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Raises :class:`Stopped` in the block on SIGTERM and SIGHUP, and removes temporary files.

    A signal that the caller ignores (``nohup``) stays ignored. Outside of the main thread, where
    Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # A worker that was forked off: its parent ends it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Stopped(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {
        number: signal.signal(number, stop)
        for number in wanted
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        try:
            yield
        finally:
            _finish(before)
    except KeyboardInterrupt:
        _finish(before)  # In case that a second one came before the first call began.
        raise


def _finish(before: dict[int, Any]) -> None:
    """Removes temporary files and puts handlers back, however many signals come meanwhile."""
    while True:
        try:
            interrupt = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in before:
                signal.signal(number, signal.SIG_IGN)
            break
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, interrupt)
    remove_temporaries()
    for number, handler in (*before.items(), (signal.SIGINT, interrupt)):
        signal.signal(number, handler)
