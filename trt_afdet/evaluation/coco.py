"""COCO average precision, by the faster-coco-eval library."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets import Dataset
from trt_afdet.detections import Detections
from trt_afdet.evaluation.matching import check_paired
from trt_afdet.support.packages import missing


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
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")
        return {name: getattr(self, name) for name in names}


def _library() -> tuple[type, type]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise missing(error) from error
    return COCO, COCOeval_faster


def _truth(dataset: Dataset) -> dict[str, list[dict[str, object]]]:
    annotations: list[dict[str, object]] = []
    for record in dataset.records:
        for box, label, crowd, ignored, area in zip(
            record.boxes, record.labels, record.crowd, record.difficult, record.area, strict=True
        ):
            x1, y1, x2, y2 = (float(v) for v in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.image_id,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(area),
                    # COCO has no "difficult"; a crowd is the nearest: found or not, it is not
                    # counted.
                    "iscrowd": int(crowd or ignored),
                }
            )
    return {
        "images": [
            {"id": r.image_id, "width": r.width, "height": r.height} for r in dataset.records
        ],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(dataset.class_names)],
    }


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean of the defined values; the library marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def evaluate_coco(truth: Dataset, detections: Sequence[Detections]) -> CocoResult:
    """COCO's figures of detections.

    Args:
        truth: The dataset.
        detections: One per record, in the records' order, in pixels of the picture; class ids are
            the dataset's class indices.

    Raises:
        InvalidValueError: If the numbers of records and detections differ.
        MissingDependencyError: Without faster-coco-eval.
    """
    check_paired(truth, detections)
    coco_type, evaluator_type = _library()
    results: list[dict[str, object]] = []
    for record, found in zip(truth.records, detections, strict=True):
        results += found.to_coco(record.image_id)
    counts = np.bincount(
        np.concatenate([np.zeros(0, int), *(r.labels[~r.ignored] for r in truth.records)]),
        minlength=len(truth.class_names),
    )
    if not results and truth.records:
        # The library cannot read an empty result. A miss of no confidence changes no figure.
        first = truth.records[0].image_id
        results = [{"image_id": first, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.0}]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco_type(_truth(truth))
        evaluator = evaluator_type(reference, reference.loadRes(results), "bbox")
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
    everything = precision[..., 0, -1]
    return CocoResult(
        ap=_mean(everything),
        ap50=_mean(everything[0]),
        ap75=_mean(everything[5]),
        ap_small=_mean(precision[..., 1, -1]),
        ap_medium=_mean(precision[..., 2, -1]),
        ap_large=_mean(precision[..., 3, -1]),
        ar=_mean(recall[..., 0, -1]),
        classes=classes,
        images=len(truth.records),
    )
