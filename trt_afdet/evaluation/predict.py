"""Running a detector over a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset
from trt_afdet.datasets.index import ProgressLike
from trt_afdet.detections import Detections


class DetectorLike(Protocol):
    """Frames in, one result per frame out."""

    def __call__(self, frames: Sequence[npt.NDArray[np.uint8]], /) -> list[Detections]: ...


def predict(
    dataset: Dataset,
    detector: DetectorLike,
    *,
    batch: int = 8,
    progress: ProgressLike | None = None,
) -> list[Detections]:
    """Detections of every record, in order, in pixels of the picture."""
    results: list[Detections] = []
    waiting: list[npt.NDArray[np.uint8]] = []
    pairs: Iterable[Any] = dataset.frames()
    if progress is not None:
        pairs = progress(pairs, len(dataset), "evaluating")
    for _, frame in pairs:
        waiting.append(frame)
        if len(waiting) == batch:
            results += detector(waiting)
            waiting = []
    if waiting:
        results += detector(waiting)
    return results
