"""A source whose driver blocks: it works in a thread of its own, so that waiting can be given up.

Of a live source only the newest frame waits to be read: whoever is slow gets fresh frames and fewer
of them, never old ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from trt_afdet.stream.sources.base import Picture, SourceError, SourceInfo
from trt_afdet.support.threads import Worker

#: Turns a decoded frame into a picture, in the thread that reads; None if there is none in it.
Pending = Callable[[], Picture | None]


class Reader(Protocol):
    """A driver of a source; used by one thread, its pending pictures by another."""

    def open(self) -> SourceInfo:
        """Connects; blocks for as long as it takes.

        Raises:
            SourceError: See :meth:`Source.open`.
        """
        ...

    def read(self) -> Pending | None:
        """The next frame; None at the end.

        Raises:
            SourceError: If the source is lost.
        """
        ...

    def close(self) -> None:
        """Disconnects, also after a failed :meth:`open`."""
        ...


class FeedSource:
    """A source behind a blocking driver.

    Args:
        name: For people and logs; without credentials.
        make: Makes the driver; called at every opening, so nothing of a hung one is shared.
        live: Whether unread frames are lost to newer ones; otherwise the driver waits.
        connect_timeout: Seconds to wait for the opening.
        timeout: Seconds to wait for a frame.

    Attributes:
        skipped: Frames of live sources that newer ones replaced before they were read.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Reader],
        *,
        live: bool = True,
        connect_timeout: float = 10.0,
        timeout: float = 5.0,
    ) -> None:
        self.name = name
        self.live = live
        self.skipped = 0
        self._make = make
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._feed: _Feed | None = None

    def open(self) -> SourceInfo:
        self.close()
        feed = self._feed = _Feed(self._make(), self.name, every=not self.live)
        feed.thread.start()
        info = feed.wait_open(self._connect_timeout)
        if info is None:
            raise SourceError(f"{self.name}: no answer for {self._connect_timeout:g} s")
        return info

    def read(self) -> Picture | None:
        feed = self._feed
        if feed is None:
            raise SourceError(f"{self.name}: not open")
        deadline = time.monotonic() + self._timeout
        while True:
            pending = feed.take(deadline)
            self.skipped = feed.skipped
            if pending is None:
                if feed.ended:
                    return None
                raise SourceError(f"{self.name}: no frame for {self._timeout:g} s")
            if (picture := pending()) is not None:
                return picture

    def interrupt(self) -> None:
        if (feed := self._feed) is not None:
            feed.stop()

    def close(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.stop()
            # One that hangs in its driver closes when that returns.
            feed.thread.join(0.2)


class _Feed:
    """One connection: a driver, its thread, and the frame that waits to be read."""

    def __init__(self, reader: Reader, name: str, *, every: bool) -> None:
        self.skipped = 0
        self.ended = False
        self._reader = reader
        self._every = every
        self._changed = threading.Condition()
        self._info: SourceInfo | None = None
        self._waiting: Pending | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self.thread = Worker(self._run, name=f"feed {name}", on_exit=self.stop)

    def wait_open(self, timeout: float) -> SourceInfo | None:
        with self._changed:
            self._changed.wait_for(lambda: self._info or self._error or self._stopped, timeout)
            self._raise()
            return self._info

    def take(self, deadline: float) -> Pending | None:
        """The waiting frame; None if there is none by the deadline, or at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._error or self.ended or self._stopped,
                max(0.0, deadline - time.monotonic()),
            )
            pending, self._waiting = self._waiting, None
            if pending is None or self._stopped:
                self._raise()
            self._changed.notify_all()
            return pending

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._waiting = None
            self._changed.notify_all()
        self.thread.interrupt()
        # Drivers that wait elsewhere than in PyAV have a way of their own.
        if (interrupt := getattr(self._reader, "interrupt", None)) is not None:
            interrupt()

    def _raise(self) -> None:
        if self._stopped:
            raise SourceError("reading was interrupted")
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            try:
                info = self._reader.open()
                with self._changed:
                    self._info = info
                    self._changed.notify_all()
                while not self._stopped and (pending := self._reader.read()) is not None:
                    self._hand_over(pending)
            finally:
                self._reader.close()
        except BaseException as error:
            # What an interruption breaks off is no news; it would hold the connection's memory.
            self._error = None if self._stopped else error
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _hand_over(self, pending: Pending) -> None:
        with self._changed:
            if self._every:
                self._changed.wait_for(lambda: self._waiting is None or self._stopped)
            elif self._waiting is not None:
                self.skipped += 1
            if not self._stopped:
                self._waiting = pending
                self._changed.notify_all()
