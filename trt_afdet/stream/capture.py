"""Keeps one source running: reads it, reconnects it, restarts it when it falls silent.

The only place with deadlines for a source, two threads for each: one reads and may hang in a driver
(:class:`Connection`), the other one never waits for it longer than it should (:class:`Capture`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from trt_afdet.stream.analysis.per_source import SourceAnalysis
from trt_afdet.stream.batcher import Batcher, Policy
from trt_afdet.stream.frame import StreamFrame
from trt_afdet.stream.monitoring.status import StatusBoard
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sources.base import (
    LoginRefusedError,
    Pending,
    Picture,
    Source,
    SourceError,
    SourceInfo,
    UnusableSourceError,
    incomplete,
    own_limit,
)
from trt_afdet.support.fields import Count, check_fields
from trt_afdet.support.redact import redact
from trt_afdet.support.threads import Worker

log = logging.getLogger("trt_afdet.stream")


class SilentError(SourceError):
    """A source did not open, or gave no frame, within its time."""


class Connection(Worker):
    """Opens a source, reads it to its end and closes it, in a separate thread.

    Of the :data:`Pending` frames of a live source only the newest waits to be taken: a slow reader
    gets fresh frames and fewer of them. Every other source waits until its frame is taken. This
    thread alone uses the source, except for ``interrupt``.
    """

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name=f"read {name}", on_exit=self.abandon)
        self._source = source
        self._changed = threading.Condition()
        self._info: SourceInfo | None = None
        self._waiting: Picture | Pending | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._abandoned = False

    def wait_open(self, limit: float) -> SourceInfo:
        """The properties of the source, once it is open.

        SilentError if it is not open within ``limit`` seconds, or its own ``connect_timeout``;
        SourceError if it cannot be opened, or the connection was abandoned.
        """
        limit = min(limit, own_limit(self._source, "connect_timeout"))
        with self._changed:
            self._changed.wait_for(lambda: self._info or self._ended or self._abandoned, limit)
            if self._info is None or self._abandoned:
                self._raise(f"no answer for {limit:g} s")
            assert self._info is not None
            return self._info

    def take(self, limit: float) -> Picture | None:
        """The next frame; None at the end.

        SilentError if there is none within ``limit`` seconds, or the source's own ``timeout``;
        SourceError if the source is lost, or the connection was abandoned.
        """
        limit = min(limit, own_limit(self._source, "timeout"))
        deadline = time.monotonic() + limit
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._ended or self._abandoned,
                    max(0.0, deadline - time.monotonic()),
                )
                read, self._waiting = self._waiting, None
                if self._abandoned or (read is None and (self._error or not self._ended)):
                    self._raise(f"no frame for {limit:g} s")
                self._changed.notify_all()
            picture = read() if callable(read) else read
            if picture is not None or read is None:
                return picture

    def abandon(self) -> None:
        """Tells it to end; it may take until its driver returns. From any thread."""
        with self._changed:
            self._abandoned = True
            self._waiting = None
            self._changed.notify_all()
        self.interrupt()
        self._source.interrupt()

    def work(self) -> None:
        try:
            if not self._abandoned:
                self._read()
        except BaseException as error:
            # Late errors of an abandoned driver do not matter.
            self._error = None if self._abandoned else error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read(self) -> None:
        source = self._source
        try:
            info = source.open()
            with self._changed:
                self._info = info
                self._changed.notify_all()
            while not self._abandoned and (read := source.read()) is not None:
                with self._changed:
                    if not (source.live and callable(read)):
                        self._changed.wait_for(lambda: self._waiting is None or self._abandoned)
                    self._waiting = None if self._abandoned else read
                    self._changed.notify_all()
                del read  # Megabytes, until the next frame.
        finally:
            source.close()

    def _raise(self, silence: str) -> None:
        if self._abandoned:
            raise SourceError("reading was interrupted")
        if self._error is not None:
            raise self._error
        raise SilentError(f"{self._source.name}: {silence}")


@dataclass(frozen=True)
class SourceSpec:
    """How one source is run.

    Attributes:
        name: Unique in the pipeline.
        make: Called for every connection, so nothing of a hung one is shared.
        live: Live sources drop frames and reconnect; the others are read frame by frame.
        policy, queue: What waits for the detector; by default the newest frame of a live source,
            and as many frames as a batch has of any other.
        realtime: Files only: at the pace of the file.
        analysis: Filters, tracking and zones; None: everything that is found is reported.
        retry: When to reconnect, and the longest silence.

    Raises:
        InvalidValueError: If the policy is unknown, or the queue has no room for a frame.
    """

    name: str
    make: Callable[[], Source]
    live: bool = True
    policy: Policy | None = None
    queue: Count | None = None
    realtime: bool = False
    analysis: SourceAnalysis | None = None
    retry: Retry | None = None

    def __post_init__(self) -> None:
        check_fields(self)


class Capture:
    """Runs one source until it ends, fails for good, or is stopped.

    A connection that is silent for too long, or hangs in its driver, is left behind and told to end
    as soon as the driver returns; another one is started with a source made anew.

    Attributes:
        reconnects: How often it was tried again.
        incomplete: Why it failed for good, or what of it could not be read; empty if all is well.
        next_sequence: Number of the next frame.
    """

    def __init__(
        self,
        spec: SourceSpec,
        batcher: Batcher,
        board: StatusBoard,
        first_sequence: int,
        on_failure: Callable[[str, BaseException], None],
    ) -> None:
        self.source = spec.name
        self.reconnects = 0
        self.incomplete = ""
        self.next_sequence = first_sequence
        self._spec = spec
        self._batcher = batcher
        self._board = board
        self._retry = spec.retry or Retry()
        self._on_failure = on_failure
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._started = 0.0  # ``time.monotonic`` of the connection's first frame.
        self._thread = Worker(self._supervise, name=f"capture {spec.name}", on_exit=self.stop)

    def start(self) -> None:
        self._board.set(self.source, "connecting")
        self._thread.start()

    def stop(self) -> None:
        """Asks it to end; returns at once."""
        self._stop.set()
        self._batcher.wake()
        with self._lock:
            if self._connection is not None:
                self._connection.abandon()

    def join(self, timeout: float) -> None:
        """Waits for the end, but no longer than so many seconds."""
        self._thread.join(timeout)

    def _supervise(self) -> None:
        failures = logins = 0
        try:
            while not self._stop.is_set():
                self._board.set(self.source, "connecting")
                source: Source | None = None
                error: BaseException | None = None
                self._started = 0.0
                try:
                    source = self._spec.make()
                    self._read(source)
                except BaseException as caught:
                    error = caught
                if error is None or self._stop.is_set():
                    self.incomplete = incomplete(source)
                    self._board.set(self.source, "ended", self.incomplete)
                    return
                live_for = time.monotonic() - self._started if self._started else 0.0
                failures = 1 if live_for >= self._retry.settled else failures + 1
                final = not isinstance(error, SourceError) or isinstance(error, UnusableSourceError)
                if final or (source is not None and not source.live):
                    self._fail(error)
                    return
                if 0 < self._retry.give_up <= failures:
                    self._fail(error, f"; given up after {failures} tries")
                    return
                login = isinstance(error, LoginRefusedError)
                logins = logins + 1 if login else 0
                pause = self._retry.pause(logins or failures, random.random(), login=login)
                when = time.strftime("%H:%M:%S", time.localtime(time.time() + pause))
                detail = f"{redact(str(error))}; trying again in {pause:.1f} s, at {when}"
                log.warning("%s: lost: %s", self.source, detail)
                self._board.set(self.source, "lost", detail)
                self.reconnects += 1
                source = error = None  # A lost connection is not kept while nothing happens.
                self._stop.wait(pause)
            self._board.set(self.source, "ended", "stopped")
        except BaseException as error:
            self._fail(error)
        finally:
            self._batcher.close(self.source)

    def _read(self, source: Source) -> None:
        """One connection, from its opening to its end."""
        connection = Connection(self.source, source)
        with self._lock:
            if self._stop.is_set():
                return
            self._connection = connection
        connection.start()
        try:
            connection.wait_open(self._retry.opening)
            while (picture := connection.take(self._retry.stall)) is not None:
                if not self._started:
                    self._started = time.monotonic() - (picture.position or 0.0)
                if not self._hand_in(picture):
                    return
        except SilentError as error:
            self._board.set(self.source, "stalled", redact(str(error)))
            raise
        finally:
            connection.abandon()
            with self._lock:
                self._connection = None
            connection.join(0.2)
            if connection.is_alive():
                log.debug("%s: left behind inside its driver", self.source)

    def _fail(self, error: BaseException, more: str = "") -> None:
        detail = self.incomplete = redact(str(error)) + more
        log.error("%s: failed: %s", self.source, detail)
        self._board.set(self.source, "failed", detail)
        self._on_failure(self.source, error)

    def _hand_in(self, picture: Picture) -> bool:
        """Hands a picture to the batcher; False if the connection should end."""
        if self._spec.realtime and picture.position is not None:
            self._stop.wait(max(0.0, self._started + picture.position - time.monotonic()))
        if self._stop.is_set():
            return False
        now = time.monotonic()
        captured = now if picture.captured is None else min(now, picture.captured)
        frame = StreamFrame(
            self.source,
            self.next_sequence,
            picture.image,
            captured,
            time.time() - (now - captured),
            picture.position,
        )
        self.next_sequence += 1
        self._board.set(self.source, "live")
        return self._batcher.put(frame, self._stop.is_set)
