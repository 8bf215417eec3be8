"""Matching detections to truth at one IoU, and which class is taken for which."""

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
        got = f"{len(detections)} for {len(truth.records)}"
        raise InvalidValueError("evaluation needs one result per picture", got=got)


def confusion_matrix(
    truth: Dataset, detections: Sequence[Detections], *, iou: float = 0.5, conf: float = 0.3
) -> npt.NDArray[np.int64]:
    """int64 [K + 1, K + 1]: counts of (true class, detected class), background last.

    Boxes are paired whatever their classes, best overlap first. A truth without partner counts as
    taken for background, a detection without one as background taken for its class; difficult
    objects and crowds count nowhere.

    Args:
        truth: The dataset.
        detections: One per record, in order.
        iou: Least overlap of a pair.
        conf: Detections at or below this confidence are left out.
    """
    check_paired(truth, detections)
    background = len(truth.class_names)
    matrix = np.zeros((background + 1, background + 1), np.int64)
    for record, found in zip(truth.records, detections, strict=True):
        sure = found.confidence > conf
        boxes, classes = found.xyxy[sure], found.class_id[sure]
        overlaps = pairwise_iou(record.boxes, boxes)
        rows, columns = np.nonzero(overlaps >= iou)
        order = np.argsort(-overlaps[rows, columns], kind="stable")
        partner = np.full(len(record.boxes), -1)
        used = np.zeros(len(boxes), bool)
        for row, column in zip(rows[order], columns[order], strict=True):
            if partner[row] < 0 and not used[column]:
                partner[row] = column
                used[column] = True
        counted = ~record.ignored
        taken_for = np.where(partner >= 0, np.append(classes, background)[partner], background)
        np.add.at(matrix, (record.labels[counted], taken_for[counted]), 1)
        matrix[background] += np.bincount(classes[~used], minlength=background + 1)
    return matrix
