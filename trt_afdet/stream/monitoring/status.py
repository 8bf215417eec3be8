"""The state of each source, and a listener for its changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

#: connecting: being opened. live: frames arrive. stalled: open, but silent. lost: gone, will be
#: tried again. failed: gone for good. ended: read to its end, or stopped.
State = Literal["connecting", "live", "stalled", "lost", "failed", "ended"]

#: States from which nothing more comes.
FINAL: tuple[State, ...] = ("failed", "ended")


@dataclass(frozen=True)
class StatusEvent:
    """A change of a source's state.

    Attributes:
        source: Its name.
        state: The new state.
        detail: Why, for people; without credentials.
        wall_time: Seconds since 1970.
    """

    source: str
    state: State
    detail: str
    wall_time: float


class StatusBoard:
    """The latest state of every source. Thread-safe.

    ``listener`` is called with every change, in the order of the changes, from the thread that made
    it; it must be quick.
    """

    def __init__(self, listener: Callable[[StatusEvent], None] | None = None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._latest: dict[str, StatusEvent] = {}

    def set(self, source: str, state: State, detail: str = "") -> None:
        """Records a state; only a change of state is an event."""
        with self._lock:
            before = self._latest.get(source)
            if before is not None and before.state == state:
                return
            event = StatusEvent(source, state, detail, time.time())
            self._latest[source] = event
            if self._listener is not None:
                self._listener(event)

    def introduce(self, listener: Callable[[StatusEvent], None], begin: Callable[[], None]) -> None:
        """Tells a new listener every source's state; no change comes before, between or twice.

        ``begin`` is called just before; it subscribes the listener to the changes.
        """
        with self._lock:
            begin()
            for event in self._latest.values():
                listener(event)

    def latest(self) -> dict[str, StatusEvent]:
        """The state of every source that ever had one."""
        with self._lock:
            return dict(self._latest)

    def forget(self, source: str) -> None:
        """Removes a source."""
        with self._lock:
            self._latest.pop(source, None)
