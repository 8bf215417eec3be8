"""Keeps one source running: reads it, reconnects it, restarts it when it falls silent."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from trt_afdet.stream.batcher import Batcher
from trt_afdet.stream.frame import StreamFrame
from trt_afdet.stream.monitoring.status import StatusBoard
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sources.base import (
    LoginRefusedError,
    Picture,
    Source,
    SourceError,
    SourceInfo,
    UnusableSourceError,
    incomplete,
)
from trt_afdet.support.redact import redact
from trt_afdet.support.threads import Worker

log = logging.getLogger("trt_afdet.stream")


class Capture:
    """Runs one source in threads of its own until it ends, fails for good, or is stopped.

    Reading happens in a reader thread. Should that hang inside a driver, it is left behind, told to
    go as soon as it comes back, and another one started with a source opened anew.

    Args:
        source: The name of the source in the pipeline.
        make: Makes the source; called for every connection, so nothing of a hung one is shared.
        batcher: Where frames go; the source must have been added.
        board: Where states go.
        retry: When to reconnect.
        realtime: Files only: hand frames in at the pace of the file.
        first_sequence: Number of the first frame.
        on_failure: Called when the source fails for good, with the error.

    Attributes:
        info: What the source says of itself, once it is open.
        reconnects: How often it was tried again.
        incomplete: Why it failed for good, or what of it could not be read; empty if all is well.
    """

    def __init__(
        self,
        source: str,
        make: Callable[[], Source],
        batcher: Batcher,
        board: StatusBoard,
        *,
        retry: Retry | None = None,
        realtime: bool = False,
        first_sequence: int = 0,
        on_failure: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        self.source = source
        self.info: SourceInfo | None = None
        self.reconnects = 0
        self.incomplete = ""
        self._make = make
        self._batcher = batcher
        self._board = board
        self._retry = retry or Retry()
        self._realtime = realtime
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._sequence = first_sequence
        self._lock = threading.Lock()
        self._reader: _Reader | None = None
        self._thread = Worker(self._supervise, name=f"capture {source}", on_exit=self.stop)

    @property
    def next_sequence(self) -> int:
        """Number of the next frame."""
        with self._lock:
            return self._sequence

    def start(self) -> None:
        self._board.set(self.source, "connecting")
        self._thread.start()

    def stop(self) -> None:
        """Asks it to end; returns at once."""
        self._stop.set()
        with self._lock:
            if self._reader is not None:
                self._reader.abandon()

    def join(self, timeout: float) -> bool:
        """Waits for the end; False if it takes longer."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _supervise(self) -> None:
        failures = logins = 0
        try:
            while not self._stop.is_set():
                self._board.set(self.source, "connecting")
                reader = _Reader(self)
                with self._lock:
                    self._reader = reader
                reader.start()
                self._watch(reader)
                if reader.error is None:
                    self.incomplete = incomplete(reader.source)
                    self._board.set(self.source, "ended", self.incomplete)
                    return
                live_for = reader.live_for()
                failures = 1 if live_for >= self._retry.settled else failures + 1
                if self._stop.is_set():
                    break
                if not self._retryable(reader):
                    self._fail(reader.error)
                    return
                if 0 < self._retry.give_up <= failures:
                    self._fail(reader.error, f"; given up after {failures} tries")
                    return
                login = isinstance(reader.error, LoginRefusedError)
                logins = logins + 1 if login else 0
                pause = self._retry.pause(logins or failures, random.random(), login=login)
                when = time.strftime("%H:%M:%S", time.localtime(time.time() + pause))
                detail = f"{redact(str(reader.error))}; trying again in {pause:.1f} s, at {when}"
                log.warning("%s: lost: %s", self.source, detail)
                self._board.set(self.source, "lost", detail)
                self.reconnects += 1
                self._stop.wait(pause)
            self._board.set(self.source, "ended", "stopped")
        except BaseException as error:
            self._fail(error)
        finally:
            self._batcher.close(self.source)

    def _retryable(self, reader: _Reader) -> bool:
        if not isinstance(reader.error, SourceError) or isinstance(
            reader.error, UnusableSourceError
        ):
            return False
        return reader.source is None or reader.source.live

    def _fail(self, error: BaseException, more: str = "") -> None:
        detail = self.incomplete = redact(str(error)) + more
        log.error("%s: failed: %s", self.source, detail)
        self._board.set(self.source, "failed", detail)
        if self._on_failure is not None:
            self._on_failure(self.source, error)

    def _watch(self, reader: _Reader) -> None:
        """Waits for the reader's end; leaves it behind if it hangs."""
        retry = self._retry
        while not reader.done.wait(min(0.2, retry.stall / 4)):
            if self._stop.is_set():
                return
            opening = self._board.latest()[self.source].state == "connecting"
            limit = retry.opening if opening else retry.stall
            if reader.silent_for() > limit:
                detail = f"{'no answer' if opening else 'no frame'} for {limit:g} s"
                self._board.set(self.source, "stalled", detail)
                reader.error = SourceError(detail)
                reader.abandon()
                return

    def hand_in(self, reader: _Reader, picture: Picture) -> bool:
        """A picture on its way from a reader to the batcher.

        Returns:
            False if the reader should end.
        """
        if self._realtime and picture.position is not None:
            late = time.monotonic() - (reader.started + picture.position)
            if late < 0 and self._stop.wait(-late):
                return False
        now = time.monotonic()
        captured = now if picture.captured is None else min(now, picture.captured)
        with self._lock:
            if self._reader is not reader or self._stop.is_set():
                return False
            sequence = self._sequence
            self._sequence += 1
        self._board.set(self.source, "live")
        return self._batcher.put(
            StreamFrame(
                source=self.source,
                sequence=sequence,
                image=picture.image,
                captured=captured,
                wall_time=time.time() - (now - captured),
                position=picture.position,
            )
        )


class _Reader(Worker):
    """One connection: opens a source and hands in its frames until it ends.

    Attributes:
        source: Once it is made.
        error: Why it ended; None if the source came to its end.
        done: Set when it has ended and closed its source.
        started: ``time.monotonic`` of the first frame.
    """

    def __init__(self, capture: Capture) -> None:
        super().__init__(name=f"read {capture.source}", on_exit=self.abandon)
        self.source: Source | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        self.started = 0.0
        self._capture = capture
        self._abandoned = threading.Event()
        self._waiting_since: float | None = time.monotonic()

    def work(self) -> None:
        try:
            self._read()
        except BaseException as error:
            # What an abandoned reader meets on its way out is no news.
            if self.error is None and not self._abandoned.is_set():
                self.error = error
        finally:
            self.done.set()

    def _read(self) -> None:
        source = self.source = self._capture._make()
        if self._abandoned.is_set():
            return
        try:
            self._capture.info = source.open()
            while not self._abandoned.is_set():
                self._waiting_since = time.monotonic()
                picture = source.read()
                self._waiting_since = None  # Waiting for room in the batcher is no silence.
                if picture is None or self._abandoned.is_set():
                    return
                self.started = self.started or time.monotonic() - (picture.position or 0.0)
                if not self._capture.hand_in(self, picture):
                    return
        finally:
            source.close()

    def abandon(self) -> None:
        """Tells it to go; it may take until its driver returns."""
        self._abandoned.set()
        self.interrupt()
        if self.source is not None:
            self.source.interrupt()

    def silent_for(self) -> float:
        """Seconds since it began to wait for the frame it is waiting for."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def live_for(self) -> float:
        """Seconds since its first frame."""
        return time.monotonic() - self.started if self.started else 0.0
