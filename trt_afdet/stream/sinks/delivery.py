"""Sinks that hand records to somebody else over a network: spool first, deliver when possible.

A record is delivered at least once. Nothing that happens to the other side reaches the pipeline:
while it is away records wait in the spool (``spool.py``), bounded, the oldest go first.

A record that the other side never takes does not hold up the others. It is dropped and counted

* at once, if the other side says so (:class:`RefusedError`), such as "packet too large",
* when it has failed alone :data:`STUCK` times in a row, and then :data:`PROOFS` times directly
  after another record got through: then this record fails, and not the connection. While no other
  gets through, all of them wait.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from trt_afdet.errors import InvalidValueError, MissingFileError, RunError
from trt_afdet.records import Record, dumps
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import FINAL, StatusEvent
from trt_afdet.stream.options import Seconds
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sinks.recorder import Contents, Recorder
from trt_afdet.stream.sinks.spool import Entry, Spool, SpoolClosedError
from trt_afdet.support.packages import missing

log = logging.getLogger("trt_afdet.stream")

FLUSH = 0.5  # Seconds of :meth:`SpooledSink.close` in which what waits may still be delivered.
STUCK = 3  # Failures in a row of the oldest record alone after which others are tried in its place.
PROOFS = 2  # Times that another record must get through, and the oldest one fail after it.
NEIGHBOURS = 8  # Others that are tried, one after the other.
SAY_AGAIN = 60.0  # Seconds between two lines in the log about refused records.


class DeliveryError(RunError):
    """It cannot be delivered now; trying again may help. Without credentials."""

    def __init__(self, what: str, *, wait: float = 0.0, **more: Any) -> None:
        super().__init__(what, **more)
        self.wait = wait  # Seconds that the other side asks for.


class RefusedError(RunError):
    """The other side will never take this; without credentials."""

    def __init__(self, what: str, *, broken: bool = False, **more: Any) -> None:
        super().__init__(what, **more)
        self.broken = broken  # Whether it has closed the connection, too.


def check_certs(tls: bool, scheme: str, *paths: Path | None) -> None:
    """Raises if a certificate or key is missing, or there is no TLS; ``scheme`` would bring it."""
    given = [path for path in paths if path is not None]
    if given and not tls:
        raise InvalidValueError("certificates need TLS", hint=f"write {scheme}")
    for path in given:
        if not path.is_file():
            raise MissingFileError("no such certificate or key", got=path)


@dataclass
class _Suspect:
    """Finds out whether the oldest record fails, or the connection; see the module."""

    id: int = 0
    failures: int = 0
    other_works: bool = False
    proofs: int = 0

    def other(self, spool: Spool) -> Entry | None:
        """Another record to be tried now, a new one each time; they take turns with the oldest."""
        if self.failures < STUCK or self.other_works or self.failures % 2 != STUCK % 2:
            return None
        others = spool.head(1 + NEIGHBOURS)[1:]
        return others[self.failures // 2 % len(others)] if others else None

    def failed(self, other: Entry | None) -> bool:
        """Notes a failure of the oldest, or of the other; True if the oldest is to be dropped."""
        self.failures += 1
        if other is None and self.other_works:
            self.other_works = False
            self.proofs += 1
            if self.failures % 2 != STUCK % 2:
                self.failures += 1
        return self.proofs >= PROOFS


class SpooledSink(ABC):
    """A sink that writes to a spool; a separate thread delivers from there.

    A subclass implements the delivery. The thread calls all its methods except :meth:`abort`.
    At most ``batch`` records are delivered at a time; one waits up to ``linger`` seconds for others
    to fill the batch. ``key`` says where a record goes (a topic).
    """

    durable = True
    package = ""  # To be imported when it is opened, as it is optional.

    def __init__(
        self,
        name: str,
        spool: Spool,
        *,
        send: Contents = ("results", "status"),
        key: Callable[[Record], str] = lambda record: "",
        batch: int = 100,
        linger: Seconds = 0.0,
        retry: Retry | None = None,
    ) -> None:
        if batch < 1:
            raise InvalidValueError("batch must be at least 1", got=batch)
        self.name = name
        self.refused = 0
        self._spool = spool
        self._recorder = Recorder(send)
        self._key, self._batch, self._linger = key, batch, linger
        self._retry = retry or Retry()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._crash: BaseException | None = None
        self._states: dict[str, StatusEvent] = {}
        self._said = (-math.inf, 0)
        self._thread = threading.Thread(target=self._run, name=f"deliver {self.name}", daemon=True)

    @abstractmethod
    def connect(self) -> None:
        """Connects anew, or raises DeliveryError if that does not work now."""

    @abstractmethod
    def send(self, entries: Sequence[Entry]) -> None:
        """Delivers; returns when all is acknowledged, or raises (some may have been delivered)."""

    @abstractmethod
    def check(self) -> None:
        """Called about every second while the spool is empty; DeliveryError: not connected."""

    @abstractmethod
    def disconnect(self) -> None:
        """Says goodbye and disconnects; doing so twice is fine."""

    @abstractmethod
    def abort(self) -> None:
        """Makes whatever blocks return soon. From any thread."""

    @property
    def path(self) -> Path:
        return self._spool.path

    @property
    def dropped(self) -> int:
        """Records lost: pushed out of the spool, or refused by the other side."""
        return self._spool.dropped + self.refused

    def waiting(self) -> int:
        return self._spool.waiting()

    def open(self) -> None:
        """Opens the spool and begins to deliver; the other side need not be there."""
        if self.package:
            try:
                import_module(self.package)
            except ImportError as error:
                raise missing(error) from error
        self._spool.open()
        self._thread.start()

    def write(self, result: StreamResult) -> None:
        self._put(self._recorder.result(result))

    def status(self, event: StatusEvent) -> None:
        self._states[event.source] = event
        self._put(self._recorder.status(event))

    def close(self) -> None:
        """Delivers for a moment longer; the rest waits on disk for the next start."""
        if self._thread.ident is not None and self._crash is None:
            for event in self._states.values():
                if event.state not in FINAL:
                    ended = replace(event, state="ended", detail="", wall_time=time.time())
                    self._put(self._recorder.status(ended))
        self._deadline = time.monotonic() + FLUSH
        self._closing.set()
        self._spool.hurry()
        if self._thread.ident is not None:
            self._thread.join(FLUSH)
            if self._thread.is_alive():
                self.abort()
                self._thread.join(0.2)
        if left := self._spool.waiting():
            log.warning("%s: %d records wait on disk for the next start", self.name, left)
        self._spool.close()

    def _put(self, records: list[Record]) -> None:
        if self._crash is not None:
            raise RunError("delivering failed", got=self._crash) from self._crash
        before = self._spool.dropped
        # Half a surrogate pair, from a file name that is not UTF-8, is written as JSON writes it.
        self._spool.put((self._key(record), dumps(record)) for record in records)
        if before == 0 and self._spool.dropped:
            log.warning("%s: the spool is full; the oldest records are dropped", self.name)

    def _run(self) -> None:
        try:
            self._deliver()
        except SpoolClosedError:
            pass
        except BaseException as error:
            log.error("%s: %s", self.name, error)
            self._crash = error
        finally:
            self.disconnect()

    def _deliver(self) -> None:
        connected, failures = False, 0
        singly_through = 0  # Up to this id, one by one: one of them is refused or fails.
        suspect = _Suspect()
        while not (self._closing.is_set() and time.monotonic() >= self._deadline):
            # The first connection is made at once, before there is anything to send.
            patience, linger = (1.0, self._linger) if connected else (0.0, 0.0)
            entries = self._spool.head(self._batch, wait=patience, full=linger)
            if not entries and self._closing.is_set():
                return
            oldest, other = entries[0] if entries else None, None
            singly = oldest is not None and oldest.id <= singly_through
            if oldest is not None and singly:
                suspect = suspect if suspect.id == oldest.id else _Suspect(oldest.id)
                other = suspect.other(self._spool)
                entries = [other or oldest]
            sending = False
            try:
                if not connected:
                    self.connect()
                    connected = True
                sending = bool(entries)
                if not entries:
                    self.check()
                else:
                    self.send(entries)
                    if other is not None:
                        suspect.other_works = True  # It stays, and is sent again in its turn.
                        continue
                    self._spool.remove(entries[-1].id)
                if failures:
                    log.info("%s: works again; %d records wait", self.name, self.waiting())
                failures = 0
            except RefusedError as error:
                if error.broken:
                    self.disconnect()
                    connected = False
                if len(entries) > 1:
                    singly_through = entries[-1].id
                elif other is not None:
                    suspect.failures += 1
                else:
                    self._drop(entries[0], error)
            except DeliveryError as error:
                self.disconnect()
                connected = False
                failures += 1
                if failures == 1 and not self._closing.is_set():
                    log.warning("%s: %s; records wait on disk", self.name, error)
                if self._closing.is_set():
                    return
                if sending and not singly and failures > 1:
                    singly_through = entries[-1].id
                elif sending and oldest is not None and singly and suspect.failed(other):
                    self._drop(oldest, error)
                    continue
                self._closing.wait(max(error.wait, self._retry.pause(failures, random.random())))

    def _drop(self, entry: Entry, why: object) -> None:
        """Gives a record up; says so once in a while."""
        self.refused += 1
        self._spool.remove(entry.id)
        when, said = self._said
        now = time.monotonic()
        if now - when >= SAY_AGAIN:
            self._said = (now, self.refused)
            text = "%s: %d records were refused and dropped, the last of %d bytes for %s: %s"
            last = len(entry.body.encode()), entry.key or "the stream", why
            log.error(text, self.name, self.refused - said, *last)
