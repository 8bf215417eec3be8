"""Judges from its figures whether a pipeline works."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot
from trt_afdet.support.redact import redact


@dataclass(frozen=True)
class Health:
    """A verdict.

    Attributes:
        status: ok; degraded: some sources are away, the rest works; unhealthy: no work is done.
        reasons: Why, one line each, without credentials.
    """

    status: Literal["ok", "degraded", "unhealthy"]
    reasons: tuple[str, ...] = ()


class HealthCheck:
    """Judges snapshots; must see one every second or so to notice a stuck detector.

    ``stall`` is how many seconds without a processed frame, while a source is live, are too many.
    """

    def __init__(
        self, names: PublicNames, stall: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._names = names
        self._stall = stall
        self._clock = clock
        self._processed = -1
        self._moved = clock()

    def judge(self, snapshot: PipelineSnapshot) -> Health:
        """The verdict on these figures."""
        now = self._clock()
        states = [event.state for event in snapshot.states.values()]
        processed = sum(figures.processed for figures in snapshot.sources.values())
        if processed != self._processed or "live" not in states:
            self._processed, self._moved = processed, now
        reasons = [
            f"{self._names.of(name)}: {event.state}"
            + f" ({redact(event.detail)})" * bool(event.detail)
            for name, event in snapshot.states.items()
            if event.state in ("stalled", "lost", "failed")
        ]
        if set(states) == {"failed"}:
            return Health("unhealthy", ("all sources have failed", *reasons))
        if now - self._moved > self._stall:
            stalled = f"no frame was processed for {now - self._moved:.0f} s"
            return Health("unhealthy", (stalled, *reasons))
        return Health("degraded", tuple(reasons)) if reasons else Health("ok")
