"""Running a detector over a dataset, and how good it is, in one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset, open_dataset
from trt_afdet.datasets.index import ProgressLike
from trt_afdet.detections import Detections
from trt_afdet.evaluation.coco import CocoResult, evaluate_coco

log = logging.getLogger("trt_afdet")


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
    pairs: Iterable[Any] = dataset.frames()
    if progress is not None:
        pairs = progress(pairs, len(dataset), "evaluating")
    frames = (frame for _, frame in pairs)
    while group := list(islice(frames, batch)):
        results += detector(group)
    return results


def evaluate(
    detector: DetectorLike,
    data: Dataset | str | Path,
    split: str | None = None,
    *,
    batch: int = 4,
    progress: ProgressLike | None = None,
) -> CocoResult:
    """Measures COCO's average precision.

    AP counts detections of every confidence: open the detector with ``conf=0.01``.

    Args:
        detector: An open detector.
        data: COCO, VOC or YOLO data: a folder, its file, or an open dataset. Classes are matched
            by name; objects of classes that the detector does not know are left out.
        split: Such as "val" or "test", where the folder holds several.
        batch: Pictures per step.
        progress: Passes items on and shows how far it is: (items, total, description) -> items.

    Returns:
        AP, AP50, AP75 and more, within 0..1, for all classes and for each.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: If the data cannot be used.
        MissingDependencyError: If faster-coco-eval is not installed.
    """
    if not isinstance(data, Dataset):
        names = getattr(detector, "names", None)
        data = open_dataset(str(data), split, model=names, decode=True, progress=progress)
        for line in data.report.lines():
            log.warning("%s: %s", data.name, line)
    data.check_labels()
    return evaluate_coco(data, predict(data, detector, batch=batch, progress=progress))
