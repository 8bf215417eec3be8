"""Finds the faults of a dataset, in one place for all formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError

NAMES_SHOWN = 3  # Names that a line of the report gives.
_LONGEST = 400  # Characters of such a name.


@dataclass
class Report:
    """All findings about a dataset, grouped by kind, with how many and the first few names.

    A fault is what lost a picture or a box, or changed it; ``--strict`` refuses it. A note says
    how the data was understood; ``notes`` are the kinds that are notes.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Counts a fault."""
        if count:
            self.counts[kind] += count
            names = self.examples.setdefault(kind, [])
            if len(example) > _LONGEST:
                example = example[: _LONGEST - 3] + "..."
            if len(names) < NAMES_SHOWN and example not in names:
                names.append(example)

    def note(self, kind: str, example: str, count: int = 1) -> None:
        """Counts something harmless."""
        if count:
            self.notes.add(kind)
            self.add(kind, example, count)

    @property
    def faults(self) -> list[str]:
        """The kinds that are faults."""
        return [kind for kind in self.counts if kind not in self.notes]

    def merge(self, other: Report) -> None:
        self.notes |= other.notes
        self.counts.update(other.counts)
        for kind in other.counts:
            names = self.examples.setdefault(kind, [])
            names += [n for n in other.examples[kind] if n not in names]
            del names[NAMES_SHOWN:]

    def lines(self) -> list[str]:
        """One line per kind, faults first."""
        return [
            f"{self.counts[kind]} {kind} (first: {', '.join(self.examples[kind])})"
            for kind in sorted(self.counts, key=lambda kind: kind in self.notes)
        ]


def clean_boxes(
    boxes: npt.ArrayLike,
    width: int,
    height: int,
    report: Report,
    where: str,
    tolerance: float = 0.5,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Boxes [N, 4] (x1 y1 x2 y2, pixels) clipped to the picture, without invalid ones.

    The report counts the changes, with ``where`` as their example, but not the clipping of boxes
    that are outside by at most ``tolerance`` pixels.

    Returns:
        float32 [M, 4] and the indices of the M boxes that were kept.
    """
    raw = np.asarray(boxes, np.float64).reshape(-1, 4)
    finite = np.asarray(np.isfinite(raw).all(axis=1))
    report.add("non-finite boxes dropped", where, int((~finite).sum()))
    safe = np.where(finite[:, None], raw, 0.0)
    proper = (safe[:, 2:] > safe[:, :2]).all(axis=1)
    report.add("inverted or empty boxes dropped", where, int((finite & ~proper).sum()))
    # In float32 already: a sliver of a box may lose its last width to the rounding.
    clipped = np.clip(safe, 0, [width, height, width, height]).astype(np.float32)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    report.add("boxes outside the picture dropped", where, int((proper & ~inside).sum()))
    keep = finite & proper & inside
    # Rounding by half a pixel deserves no warning.
    moved = (np.abs(clipped - safe) > tolerance).any(axis=1)
    report.add("boxes clipped to the picture", where, int((keep & moved).sum()))
    kept = np.flatnonzero(keep)
    return clipped[kept], kept


def check_unique(values: Iterable[Any], what: str, file: object) -> None:
    """Raises CorruptFileError naming the first value that repeats or cannot be an id."""
    seen = set()
    for value in values:
        try:
            repeated = value in seen
        except TypeError:  # a list or an object, maybe inside a tuple
            raise CorruptFileError(f"{file}: malformed {what}", got=str(value)[:40]) from None
        if repeated:
            raise CorruptFileError(f"{file}: duplicate {what}", got=value)
        seen.add(value)
