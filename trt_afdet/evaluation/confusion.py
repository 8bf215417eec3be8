"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset
from trt_afdet.detections import Detections
from trt_afdet.evaluation.matching import check_paired, pairwise_iou


def confusion_matrix(
    truth: Dataset, detections: Sequence[Detections], *, iou: float = 0.5, conf: float = 0.3
) -> npt.NDArray[np.int64]:
    """Counts of (true class, detected class); the last row and column are the background.

    Boxes are paired whatever their classes, best overlap first. A truth without partner counts as
    taken for background, a detection without one as background taken for its class; difficult
    objects and crowds count nowhere.

    Args:
        truth: The dataset.
        detections: One per record, in order.
        iou: Least overlap of a pair.
        conf: Detections at or below this confidence are left out.

    Returns:
        int64 [K + 1, K + 1].
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
