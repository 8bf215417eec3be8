"""Frames wait here for the detector: one short queue per source, one batcher for all.

The batcher takes the waiting frames, source by source. A batch leaves when it is full, when no
other source is due soon, or after a time limit. A slow or dead camera does not delay the others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.frame import StreamFrame
from trt_afdet.stream.monitoring.snapshot import QueueCount

#: When a queue is full, drop its oldest frame (live sources, bounds latency), drop the new frame,
#: or let the source wait (files).
Policy = Literal["drop-oldest", "drop-newest", "wait"]


@dataclass
class _Queue:
    policy: Policy
    capacity: int
    frames: deque[StreamFrame] = field(default_factory=deque)
    closed: bool = False
    received: int = 0
    dropped: int = 0
    stale: int = 0
    arrived: float | None = None
    interval: float | None = None

    def arrives(self, moment: float) -> None:
        """Records the arrival of a frame, for :meth:`worth_waiting`."""
        if self.arrived is not None:
            gap = moment - self.arrived
            self.interval = gap if self.interval is None else 0.8 * self.interval + 0.2 * gap
        self.arrived = moment

    def worth_waiting(self, now: float, deadline: float) -> bool:
        """Whether an empty queue should receive a frame by the deadline."""
        if self.closed or self.arrived is None:
            return False
        if self.policy == "wait":
            return True  # A file delivers its next frame as soon as it can.
        if self.interval is None:
            return False
        due = self.arrived + self.interval
        # Do not wait for an overdue camera: it is dead or has become slower.
        return due <= deadline and now <= due + self.interval


class Batcher:
    """The queues of all sources.

    Args:
        max_age: Drop frames that are older than so many seconds at their turn; None for no limit.
            Sources with policy ``wait`` ignore it.
        clock: Monotonic seconds; the time base of ``StreamFrame.captured``.
    """

    def __init__(
        self, max_age: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_age = max_age
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._turn: deque[str] = deque()  # Sources, next one first.
        self._changed = threading.Condition()
        self._stopped = False
        self._held = 0

    def add(self, source: str, policy: Policy = "drop-oldest", capacity: int = 1) -> None:
        """Opens a source's queue; reopens a closed one of the same name and keeps its counts."""
        with self._changed:
            queue = self._queues.get(source)
            if queue is not None and not queue.closed:
                raise InvalidValueError("two sources have the same name", got=source)
            if queue is None:
                queue = self._queues[source] = _Queue(policy, capacity)
                self._turn.append(source)
            queue.policy, queue.capacity, queue.closed = policy, capacity, False

    def put(self, frame: StreamFrame, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Adds a frame of an added source; policy ``wait`` blocks until the queue has room.

        Args:
            frame: The frame.
            given_up: Whether the source must end; called again after :meth:`wake`.

        Returns:
            False if the source must end: it was closed or given up, or the batcher was stopped.
        """
        with self._changed:
            queue = self._queues[frame.source]

            def over() -> bool:
                return queue.closed or self._stopped or given_up()

            if queue.policy == "wait":
                self._changed.wait_for(lambda: len(queue.frames) < queue.capacity or over())
            if over():
                return False
            queue.received += 1
            queue.arrives(self._clock())
            if len(queue.frames) >= queue.capacity:
                queue.dropped += 1
                if queue.policy == "drop-newest":
                    return True
                queue.frames.popleft()
            queue.frames.append(frame)
            self._changed.notify_all()
            return True

    def wake(self) -> None:
        """Makes waiting :meth:`put` calls check ``given_up`` again."""
        with self._changed:
            self._changed.notify_all()

    def close(self, source: str) -> None:
        """Ends a source; its waiting frames are still processed."""
        with self._changed:
            self._queues[source].closed = True
            self._changed.notify_all()

    def forget(self, source: str) -> None:
        """Removes a source with its frames and counts."""
        with self._changed:
            self._queues.pop(source, None)
            if source in self._turn:
                self._turn.remove(source)
            self._changed.notify_all()

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Makes :meth:`take` wait even if all sources are closed, because new ones follow."""
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Ends all waits at once: :meth:`put` returns False, :meth:`take` returns None."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def take(self, most: int, max_wait: float, *, block: bool = True) -> list[StreamFrame] | None:
        """The next batch of waiting frames, one of each source in turn.

        Waits for the first frame without a limit, or not at all unless ``block``. Then waits until
        ``most`` frames are there, ``max_wait`` seconds have passed, or no source with an empty
        queue is due in that time.

        Returns:
            1 to ``most`` frames, of different sources if possible. An empty list if no frame waits
            and ``block`` is False. None after the last frame of all closed sources, or after
            :meth:`stop`.
        """
        with self._changed:
            while True:
                if block:
                    self._changed.wait_for(
                        lambda: self._stopped or self._waiting() or self._ended()
                    )
                if self._stopped or (self._ended() and not self._waiting()):
                    return None
                if not self._waiting():
                    return []
                deadline = self._clock() + max_wait
                while not self._stopped and not self._full(most, deadline):
                    left = deadline - self._clock()
                    if left <= 0 or not self._changed.wait(left):
                        break
                if self._stopped:
                    return None
                if (batch := self._collect(most)) or not block:
                    self._changed.notify_all()
                    return batch

    def counts(self) -> dict[str, QueueCount]:
        """The counts of every source."""
        with self._changed:
            return {
                name: QueueCount(queue.received, queue.dropped, queue.stale, len(queue.frames))
                for name, queue in self._queues.items()
            }

    def _waiting(self) -> int:
        return sum(len(queue.frames) for queue in self._queues.values())

    def _ended(self) -> bool:
        queues = self._queues.values()
        return not self._held and bool(queues) and all(queue.closed for queue in queues)

    def _full(self, most: int, deadline: float) -> bool:
        if self._waiting() >= most:
            return True
        now = self._clock()
        empty = (queue for queue in self._queues.values() if not queue.frames)
        return not any(queue.worth_waiting(now, deadline) for queue in empty)

    def _collect(self, most: int) -> list[StreamFrame]:
        oldest = self._clock() - (math.inf if self._max_age is None else self._max_age)
        batch: list[StreamFrame] = []
        while len(batch) < most and self._waiting():
            queue = self._queues[self._turn[0]]
            self._turn.rotate(-1)
            while queue.frames:
                frame = queue.frames.popleft()
                if frame.captured >= oldest or queue.policy == "wait":
                    batch.append(frame)
                    break
                queue.stale += 1
        return batch
