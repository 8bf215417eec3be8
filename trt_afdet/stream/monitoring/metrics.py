"""Counters and latencies of a running pipeline, updated for every frame.

Latencies go into fixed buckets, so memory does not grow however long a pipeline runs.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import accumulate

from trt_afdet.stream.monitoring.snapshot import SourceSnapshot

#: Upper edges of the latency buckets, seconds: 0.5 ms to 60 s, a factor of about 1.26 apart, so a
#: percentile read off them is off by at most a quarter.
EDGES = tuple(0.0005 * 10 ** (step / 10) for step in range(52))

#: Seconds over which frames per second are counted.
RATE_WINDOW = 5.0


class Histogram:
    """Counts of values per bucket. Not thread-safe."""

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES) + 1)
        self.total = 0.0
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(EDGES, seconds)] += 1
        self.total += seconds
        self.largest = max(self.largest, seconds)

    def percentile(self, share: float) -> float:
        """The upper edge of the bucket in which the share (0..1) of the values is reached."""
        wanted = share * sum(self.counts)
        if not wanted:
            return float("nan")
        bucket = bisect.bisect_left(list(accumulate(self.counts)), wanted)
        return min(EDGES[bucket], self.largest) if bucket < len(EDGES) else self.largest


@dataclass
class _SourceFigures:
    processed: int = 0
    detected: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=1024))


class Metrics:
    """The figures of all sources and sinks. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[str, _SourceFigures] = {}
        self._batches = (0, 0)  # Number, frames.
        self.started = time.monotonic()

    def frame_done(
        self, source: str, latency: float, names: list[str], *, detected: bool, now: float
    ) -> None:
        """Counts a frame that has been handed to the sinks.

        Args:
            source: Its source.
            latency: Seconds since its capture.
            names: Class name of each detection.
            detected: Whether the detector saw it.
            now: ``time.monotonic``.
        """
        with self._lock:
            figures = self._sources.setdefault(source, _SourceFigures())
            figures.processed += 1
            figures.detected += detected
            figures.latency.add(latency)
            figures.recent.append(now)
            figures.objects.update(names)

    def batch_done(self, frames: int) -> None:
        """Counts a run of the detector."""
        with self._lock:
            number, before = self._batches
            self._batches = (number + 1, before + frames)

    def batches(self) -> tuple[int, int]:
        """Runs of the detector, and the frames in them."""
        with self._lock:
            return self._batches

    def forget(self, source: str) -> None:
        """Removes a source's figures."""
        with self._lock:
            self._sources.pop(source, None)

    def snapshot(self) -> dict[str, SourceSnapshot]:
        """The figures of every source."""
        now = time.monotonic()
        with self._lock:
            return {name: self._of(figures, now) for name, figures in self._sources.items()}

    def histogram(self, source: str) -> tuple[list[int], float]:
        """A source's latency counts per bucket of :data:`EDGES` (and one beyond), and their sum."""
        with self._lock:
            figures = self._sources.get(source) or _SourceFigures()
            return list(figures.latency.counts), figures.latency.total

    def _of(self, figures: _SourceFigures, now: float) -> SourceSnapshot:
        recent = [moment for moment in figures.recent if now - moment <= RATE_WINDOW]
        # The deque is bounded; above its length per window the oldest tells the true span.
        span = now - recent[0] if len(recent) == figures.recent.maxlen else RATE_WINDOW
        span = min(span, now - self.started) or RATE_WINDOW
        return SourceSnapshot(
            processed=figures.processed,
            detected=figures.detected,
            objects=dict(figures.objects),
            fps=len(recent) / span,
            latency_p50=figures.latency.percentile(0.5),
            latency_p99=figures.latency.percentile(0.99),
            latency_max=figures.latency.largest,
        )
