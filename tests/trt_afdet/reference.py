"""Steps 1 to 5 of decode + NMS in plain Python loops, one float32 operation at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.spec import ModelSpec

F = np.float32
#: (logit, level, point, class, box): sorting by (-logit, level, point, class) is NMS's order.
Row = tuple[np.float32, int, int, int, tuple[np.float32, ...]]


def threshold(probability: float) -> np.float32:
    if probability in (0, 1):
        return F(math.inf if probability else -math.inf)
    return F(math.log(probability / (1 - probability)))


def level_rows(cls: npt.NDArray[Any], reg: npt.NDArray[Any], spec: ModelSpec, i: int) -> list[Row]:
    """Candidates of a level, best first."""
    columns = cls.shape[2]
    found = []
    for class_id, row, column in np.ndindex(*cls.shape):
        logit = F(cls[class_id, row, column])
        if logit > threshold(spec.score_threshold):
            found.append((-logit, row * columns + column, class_id))
    rows = []
    for falling, point, class_id in sorted(found)[: spec.candidates_per_level]:
        y, x = divmod(point, columns)
        box = decode(x, y, reg[:, y, x], spec, spec.strides[i])
        if box is not None:
            rows.append((F(-falling), i, point, class_id, box))
    return rows


def decode(
    x: int, y: int, distance: npt.NDArray[Any], spec: ModelSpec, stride: int
) -> tuple[np.float32, ...] | None:
    """Eq. (8) as corrected, clipped; None if not finite or empty."""
    unit = F(spec.regression_scale * stride)
    centre_x, centre_y = F((x + 0.5) * stride), F((y + 0.5) * stride)
    left, top, right, bottom = (F(d) * unit for d in distance)
    corners = (centre_x - left, centre_y - top, centre_x + right, centre_y + bottom)
    if not all(math.isfinite(c) for c in corners):
        return None
    limits = (spec.width, spec.height) * 2
    x1, y1, x2, y2 = (
        min(max(c, F(0)), F(limit)) for c, limit in zip(corners, limits, strict=True)
    )
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def overlaps(a: Sequence[np.float32], b: Sequence[np.float32], iou: np.float32) -> bool:
    wide = max(F(0), min(a[2], b[2]) - max(a[0], b[0]))
    tall = max(F(0), min(a[3], b[3]) - max(a[1], b[1]))
    inter = wide * tall
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return bool(inter / (area - inter) > iou)


def detect(heads: Sequence[npt.NDArray[Any]], spec: ModelSpec) -> list[Row]:
    """The kept rows of one image: heads without the batch axis."""
    count = len(spec.strides)
    with np.errstate(all="ignore"):
        rows = [r for i in range(count) for r in level_rows(heads[i], heads[count + i], spec, i)]
        rows.sort(key=lambda row: (-row[0], *row[1:4]))
        kept: list[Row] = []
        for row in rows:
            rivals = (k for k in kept if spec.class_agnostic or k[3] == row[3])
            if not any(overlaps(rival[4], row[4], F(spec.nms_iou)) for rival in rivals):
                kept.append(row)
            if len(kept) == spec.max_detections:
                break
    return kept
