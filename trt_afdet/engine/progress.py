"""Progress of a build: TensorRT writes it from any thread, the display reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Phases within phases that are shown; deeper ones last milliseconds.
_SHOWN = 2


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildState:
    """Progress of one build.

    Args:
        free_memory: Says how much device memory is free, in bytes.

    Attributes:
        cancelled: Set it to stop the build at its next step.
        device_memory: Most device memory that it has taken so far, in bytes; None if unknown.
    """

    def __init__(self, free_memory: Callable[[], int] | None = None) -> None:
        self.cancelled = False
        self.device_memory: int | None = None
        self._free_memory = free_memory
        self._free_before = free_memory() if free_memory is not None else 0
        self._end: float | None = None
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._best = 0.0
        self._told = False

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, as a part of another or of nothing."""
        with self._lock:
            self._told = True
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, index: int) -> bool:
        """A step of it is done; False asks TensorRT to stop."""
        with self._lock:
            if phase := self._phases.get(name):
                phase.done = min(index + 1, phase.steps)
        return not self.cancelled

    def finish(self, name: str) -> None:
        """A phase has ended, or was given up."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase and phase.parent is None:
                self._best = 1.0

    def look(self) -> None:
        """Notes how much device memory is in use."""
        if self._free_memory is not None:
            taken = max(0, self._free_before - self._free_memory())
            self.device_memory = max(self.device_memory or 0, taken)

    def end(self) -> None:
        """The build is over."""
        self._end = time.monotonic()

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def seconds(self) -> float:
        """Since the build began, until it ended."""
        return (self._end or time.monotonic()) - self._start

    @property
    def fraction(self) -> float | None:
        """0 to 1, never falling; None if TensorRT has told nothing."""
        with self._lock:
            if not self._told:
                return None
            root = next((n for n, p in self._phases.items() if p.parent is None), None)
            if root is not None:
                self._best = max(self._best, min(1.0, self._done(root)))
            return self._best

    @property
    def doing(self) -> str:
        """The phases under way, from the outermost in."""
        with self._lock:
            names = [n for n, p in self._phases.items() if p.parent is not None]
        return " > ".join(names[:_SHOWN]) or "building"

    def _done(self, name: str) -> float:
        """Share of a phase, with that of the phase inside its current step."""
        phase = self._phases[name]
        inner = next((n for n, p in self._phases.items() if p.parent == name), None)
        part = 0.0 if inner is None or phase.done >= phase.steps else self._done(inner)
        return (phase.done + min(part, 1.0)) / phase.steps
