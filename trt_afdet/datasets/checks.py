"""What is wrong with annotations, found in one place for all formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError


@dataclass
class Report:
    """How many boxes were mended or dropped, by kind, with one example each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        if count:
            self.counts[kind] += count
            self.examples.setdefault(kind, example)

    def merge(self, other: Report) -> None:
        for kind, count in other.counts.items():
            self.add(kind, other.examples[kind], count)

    def lines(self) -> list[str]:
        """One line per kind."""
        return [f"{n} {kind} (first: {self.examples[kind]})" for kind, n in self.counts.items()]


def clean_boxes(
    boxes: npt.ArrayLike, width: int, height: int, report: Report, where: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Boxes clipped to the picture, without those that are no boxes.

    Args:
        boxes: [N, 4], x1 y1 x2 y2 in pixels.
        width, height: The picture's size.
        report: Counts what was done.
        where: For the report's example.

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
    # Half a pixel of rounding is nothing to warn of.
    moved = (np.abs(clipped - safe) > 0.5).any(axis=1)
    report.add("boxes clipped to the picture", where, int((keep & moved).sum()))
    kept = np.flatnonzero(keep)
    return clipped[kept], kept


def check_unique(values: Iterable[Any], what: str, file: object) -> None:
    """Raises CorruptFileError naming the first value that repeats or can be no id."""
    seen = set()
    for value in values:
        try:
            repeated = value in seen
        except TypeError:  # a list or an object, maybe inside a tuple
            raise CorruptFileError(f"{file}: malformed {what}", got=str(value)[:40]) from None
        if repeated:
            raise CorruptFileError(f"{file}: duplicate {what}", got=value)
        seen.add(value)
