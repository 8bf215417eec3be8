"""The protocol of a sink, and the thread and queue of each.

A sink never slows another one down. One that must not lose anything (``durable``) makes the
pipeline wait when its queue is full, so that frames are dropped before they are processed; any
other loses its oldest waiting results instead.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.support.redact import redact
from trt_afdet.support.threads import Worker

log = logging.getLogger("trt_afdet.stream")


class Sink(Protocol):
    """Receives results. Used by one thread.

    A sink that loses results itself (a bounded spool) counts them in an int ``dropped``;
    one to which a file belongs alone, be it a lock, has its ``path``.
    """

    name: str  # For people and logs; without credentials.
    durable: bool  # Whether every result counts.

    def open(self) -> None:
        """Called once, before anything else; raises AfdetError if the sink cannot work."""
        ...

    def write(self, result: StreamResult) -> None: ...

    def status(self, event: StatusEvent) -> None:
        """Takes a change of a source's state; may ignore it."""
        ...

    def close(self) -> None:
        """Called once at the end: whatever was taken is now safe."""
        ...


class SinkRunner:
    """A sink with its thread and its queue of at most ``capacity`` results.

    ``on_failure`` gets the sink's name when it raises; nothing is written after that.
    """

    def __init__(
        self, sink: Sink, capacity: int, on_failure: Callable[[str, BaseException], None]
    ) -> None:
        self.sink = sink
        self.written = self._dropped = 0
        self.successor: SinkRunner | None = None  # Gets what comes after this one began to close.
        self._capacity, self._on_failure = capacity, on_failure
        self._items: deque[StreamResult | StatusEvent] = deque()
        self._changed = threading.Condition()
        self._closing = self._failed = False
        self._thread = Worker(self._run, name=f"sink {sink.name}", on_exit=self.begin_close)

    def start(self) -> None:
        """Opens the sink, in the caller's thread so that it may refuse, and starts to serve it."""
        self.sink.open()
        self._thread.start()

    def put(self, item: StreamResult | StatusEvent, stopping: Callable[[], bool]) -> None:
        """Takes an item; ``stopping`` gives up the waiting for room in a durable sink's queue."""
        with self._changed:
            if self._failed:
                return
            if not self._closing:
                if isinstance(item, StreamResult):
                    full = self._capacity
                    if self.sink.durable:
                        while len(self._items) >= full and not (self._failed or stopping()):
                            self._changed.wait(0.1)
                    elif len(self._items) >= full:
                        self._drop_oldest_result()
                self._items.append(item)
                self._changed.notify_all()
                return
        if self.successor is not None:
            self.successor.put(item, stopping)

    @property
    def dropped(self) -> int:
        """Lost results: those of the queue, and the sink's own ``dropped``."""
        return self._dropped + int(getattr(self.sink, "dropped", 0))

    def waiting(self) -> int:
        return len(self._items)

    def begin_close(self) -> None:
        """Lets the sink finish: durable ones write what waits, others forget it."""
        with self._changed:
            self._closing = True
            if not self.sink.durable:
                self._items.clear()
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Waits for the sink to finish (see :meth:`begin_close`); False if it did not in time."""
        self.begin_close()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _drop_oldest_result(self) -> None:
        for index, waiting in enumerate(self._items):
            if isinstance(waiting, StreamResult):
                del self._items[index]
                self._dropped += 1
                return

    def _run(self) -> None:
        try:
            try:
                while (item := self._next()) is not None:
                    if isinstance(item, StatusEvent):
                        self.sink.status(item)
                    else:
                        self.sink.write(item)
                        self.written += 1
            finally:
                self.sink.close()
        except BaseException as error:
            log.error("sink %s: %s", self.sink.name, redact(str(error)))
            with self._changed:
                self._failed = True
                self._items.clear()
                self._changed.notify_all()
            self._on_failure(self.sink.name, error)

    def _next(self) -> StreamResult | StatusEvent | None:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closing)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item
