"""Matching detections to truth at one IoU, for VOC's AP and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError

Boxes = npt.NDArray[np.float32]


def pairwise_iou(a: Boxes, b: Boxes) -> npt.NDArray[np.float64]:
    """IoU of every pair: [N, 4] and [M, 4] x1 y1 x2 y2 -> [N, M]."""
    a, b = a.astype(np.float64), b.astype(np.float64)  # type: ignore[assignment]
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None] - inter
    return np.asarray(inter / np.maximum(union, 1e-12))


def check_paired(truth: Dataset, detections: Sequence[Detections]) -> None:
    """Raises InvalidValueError unless there is one result per record."""
    if len(detections) != len(truth.records):
        raise InvalidValueError(
            "evaluation needs one result per picture",
            got=f"{len(detections)} for {len(truth.records)}",
        )
