"""How long each stage takes per frame, and its percentiles."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Stages in the order a frame passes them.
STAGES = ("decode", "upload", "preprocess", "network", "postprocess", "download", "write")


def percentile(values: list[float], share: float) -> float:
    """The value below which a share (0..1) of the values lie, between neighbours linearly.

    Equal to ``numpy.percentile``; without NumPy, which the command line loads late.
    """
    if not values:
        return float("nan")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


class StageTimes:
    """Records seconds per frame for each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def record(self, stage: str, seconds: float, frames: int = 1) -> None:
        """Adds a stage's time for some frames that passed it together, in equal shares."""
        if frames > 0:
            self.seconds.setdefault(stage, []).extend([seconds / frames] * frames)

    @contextmanager
    def measure(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Records the time the body takes, unless it raises."""
        start = time.perf_counter()
        yield
        self.record(stage, time.perf_counter() - start, frames)

    def rows(self) -> list[tuple[str, float, float]]:
        """(stage, p50, p95) in milliseconds per frame, for the stages that ran."""
        names = [s for s in STAGES if s in self.seconds]
        names += [s for s in self.seconds if s not in STAGES]
        milliseconds = {s: [value * 1e3 for value in self.seconds[s]] for s in names}
        return [(s, percentile(m, 0.5), percentile(m, 0.95)) for s, m in milliseconds.items()]
