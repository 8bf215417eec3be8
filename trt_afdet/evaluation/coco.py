"""COCO average precision, by the faster-coco-eval library."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset
from trt_afdet.detections import Detections
from trt_afdet.evaluation.matching import check_paired
from trt_afdet.support.packages import missing

_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")


@dataclass(frozen=True)
class ClassResult:
    """Figures of one class; nan where the truth has none of it.

    Attributes:
        name: The class.
        truths: Objects that count.
        ap, ap50: Average precision over IoU .50:.95, and at IoU .50.
        precision: float64 [101], interpolated precision at IoU .50, recall 0, .01, ... 1.
    """

    name: str
    truths: int
    ap: float
    ap50: float
    precision: npt.NDArray[np.float64]


@dataclass(frozen=True)
class CocoResult:
    """COCO's figures, all within 0..1; nan where the truth has no such object.

    Attributes:
        ap: Mean over classes and IoU .50:.95.
        ap50, ap75: At one IoU.
        ap_small, ap_medium, ap_large: By area, below 32^2, up to 96^2, and above.
        ar: Average recall with 100 detections.
        classes: One result per class, in class order.
        images: Number of pictures.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar: float
    classes: tuple[ClassResult, ...]
    images: int

    def metrics(self) -> dict[str, float]:
        """The figures by name, without the classes."""
        return {name: getattr(self, name) for name in _FIGURES}


def _truth(dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        columns = (record.boxes, record.labels, record.ignored, record.area)
        for box, label, ignored, area in zip(*(c.tolist() for c in columns), strict=True):
            x1, y1, x2, y2 = box
            one = {"id": len(annotations) + 1, "image_id": record.image_id, "area": area}
            one |= {"category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            # COCO has no "difficult"; a crowd is the nearest: found or not, it is not counted.
            annotations.append({**one, "iscrowd": int(ignored)})
    sizes = [{"id": r.image_id, "width": r.width, "height": r.height} for r in dataset.records]
    return {
        "images": sizes,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(dataset.class_names, 1)],
    }


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the defined values; the library marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def evaluate_coco(truth: Dataset, detections: Sequence[Detections]) -> CocoResult:
    """COCO's figures of detections: one per record, in order, in pixels of the picture."""
    check_paired(truth, detections)
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise missing(error) from error
    results: list[dict[str, Any]] = []
    for record, found in zip(truth.records, detections, strict=True):
        results += found.to_coco(record.image_id)
    labels = [np.zeros(0, int), *(r.labels[~r.ignored] for r in truth.records)]
    counts = np.bincount(np.concatenate(labels), minlength=len(truth.class_names))
    if not results and truth.records:
        # The library cannot read an empty result. A miss of no confidence changes no figure.
        first = truth.records[0].image_id
        results = [{"image_id": first, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.0}]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(_truth(truth))
        evaluator = COCOeval_faster(reference, reference.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    # [IoU, recall, class, area, max detections]
    precision = np.asarray(evaluator.eval["precision"])
    recall = np.asarray(evaluator.eval["recall"])
    classes = tuple(
        ClassResult(
            name=name,
            truths=int(counts[i]),
            ap=_mean(precision[:, :, i, 0, -1]),
            ap50=_mean(precision[0, :, i, 0, -1]),
            precision=precision[0, :, i, 0, -1].copy(),
        )
        for i, name in enumerate(truth.class_names)
    )
    everything, small, medium, large = np.moveaxis(precision[..., -1], -1, 0)
    figures = (everything, everything[0], everything[5], small, medium, large, recall[..., 0, -1])
    means = dict(zip(_FIGURES, map(_mean, figures), strict=True))
    return CocoResult(**means, classes=classes, images=len(truth.records))
