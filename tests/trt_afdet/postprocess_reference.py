"""Decode + NMS once more, slowly and plainly: loops over boxes, one candidate a tuple."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trt_afdet.spec import ModelSpec

Candidate = tuple[float, int, int, int, tuple[np.float32, ...]]


def iou(a: tuple[np.float32, ...], b: tuple[np.float32, ...]) -> np.float32:
    zero = np.float32(0)
    width = max(zero, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(zero, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def box_of(
    reg: npt.NDArray[np.float32], spec: ModelSpec, level: int, row: int, column: int
) -> tuple[np.float32, ...] | None:
    """The clipped box of a point, or None if it is not finite or empty."""
    stride = spec.strides[level]
    scale = np.float32(spec.regression_scale * stride)
    x, y = np.float32((column + 0.5) * stride), np.float32((row + 0.5) * stride)
    left, top, right, bottom = (np.float32(d) * scale for d in reg[:, row, column])
    corners = (x - left, y - top, x + right, y + bottom)
    if not all(math.isfinite(c) for c in corners):
        return None
    sides = (spec.width, spec.height) * 2
    box = tuple(
        np.float32(min(max(c, 0.0), float(side))) for c, side in zip(corners, sides, strict=True)
    )
    return box if box[2] > box[0] and box[3] > box[1] else None


def detect(heads: list[npt.NDArray[np.float32]], spec: ModelSpec) -> list[Candidate]:
    """(logit, level, point, class, box) of every detection, best first; heads of one image."""
    t = spec.score_threshold
    threshold = -math.inf if t == 0 else math.inf if t == 1 else math.log(t / (1 - t))
    count = len(spec.strides)
    candidates: list[Candidate] = []
    with np.errstate(all="ignore"):
        for level in range(count):
            cls, reg = heads[level], heads[count + level]
            found = []
            for row in range(cls.shape[1]):
                for column in range(cls.shape[2]):
                    for class_id in range(cls.shape[0]):
                        logit = float(cls[class_id, row, column])
                        if logit > np.float32(threshold):
                            found.append((-logit, row * cls.shape[2] + column, class_id))
            found.sort()
            for negative, point, class_id in found[: spec.candidates_per_level]:
                box = box_of(reg, spec, level, *divmod(point, cls.shape[2]))
                if box is not None:
                    candidates.append((-negative, level, point, class_id, box))
        candidates.sort(key=lambda c: (-c[0], *c[1:4]))
        kept: list[Candidate] = []
        for candidate in candidates:
            rivals = [k for k in kept if spec.class_agnostic or k[3] == candidate[3]]
            if not any(iou(k[4], candidate[4]) > np.float32(spec.nms_iou) for k in rivals):
                kept.append(candidate)
    return kept[: spec.max_detections]
