"""Pascal VOC's AP50: VOC 2007's 11-point form and the later continuous one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset
from trt_afdet.detections import Detections
from trt_afdet.evaluation.matching import check_paired, pairwise_iou


@dataclass(frozen=True)
class VocResult:
    """VOC's figures, within 0..1; nan for a class without truth.

    Attributes:
        map_11, map_continuous: Means over the classes that have truth.
        ap_11, ap_continuous: Per class, in class order.
    """

    map_11: float
    map_continuous: float
    ap_11: tuple[float, ...]
    ap_continuous: tuple[float, ...]


def average_precision(correct: npt.NDArray[np.bool_], truths: int, *, eleven_points: bool) -> float:
    """AP of detections in descending order of confidence.

    Args:
        correct: bool [N].
        truths: Number of objects to find.
        eleven_points: VOC 2007's mean of 11 recall steps; else the area under the curve.
    """
    if truths == 0:
        return float("nan")
    hits = np.cumsum(correct)
    recall = hits / truths
    precision = hits / np.arange(1, len(correct) + 1)
    # The best precision at this recall or any higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        steps = np.linspace(0, 1, 11)
        reached = np.searchsorted(recall, steps - 1e-12)
        padded = np.append(envelope, 0.0)
        return float(padded[np.minimum(reached, len(envelope))].mean())
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _match_class(
    truth: Dataset, detections: Sequence[Detections], index: int, iou: float
) -> tuple[npt.NDArray[np.bool_], int]:
    """Whether each detection of a class is right, by confidence; and how many there are to find.

    A detection takes the truth it overlaps most; one that takes a difficult truth is left out. A
    second detection of the same truth is wrong.
    """
    scores: list[float] = []
    correct: list[bool] = []
    total = 0
    for record, found in zip(truth.records, detections, strict=True):
        mine = record.labels == index
        skipped = record.ignored[mine]
        total += int((~skipped).sum())
        chosen = found.class_id == index
        order = np.argsort(-found.confidence[chosen], kind="stable")
        boxes, confidence = found.xyxy[chosen][order], found.confidence[chosen][order]
        overlaps = pairwise_iou(boxes, record.boxes[mine])
        taken = np.zeros(len(skipped), bool)
        for row, score in zip(overlaps, confidence, strict=True):
            best = int(row.argmax()) if row.size else -1
            if best >= 0 and row[best] >= iou:
                if skipped[best]:
                    continue
                correct.append(not taken[best])
                taken[best] = True
            else:
                correct.append(False)
            scores.append(float(score))
    order = np.argsort(-np.array(scores), kind="stable")
    return np.array(correct, bool)[order], total


def evaluate_voc(
    truth: Dataset, detections: Sequence[Detections], *, iou: float = 0.5
) -> VocResult:
    """VOC's AP per class and its mean, of one result per record, right from an overlap on."""
    check_paired(truth, detections)
    per_class = [_match_class(truth, detections, i, iou) for i in range(len(truth.class_names))]
    ap_11 = tuple(average_precision(c, n, eleven_points=True) for c, n in per_class)
    area = tuple(average_precision(c, n, eleven_points=False) for c, n in per_class)
    defined = ([v for v in values if v == v] or [np.nan] for values in (ap_11, area))
    map_11, map_continuous = (float(np.mean(values)) for values in defined)
    return VocResult(map_11, map_continuous, ap_11, area)
