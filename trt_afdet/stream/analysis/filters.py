"""Filters of a source: classes, confidence per class, size, place in the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.analysis.shapes import Point, check_polygon, to_pixels, units_of
from trt_afdet.support.fields import Share, check_fields
from trt_afdet.support.suggest import nearest


@dataclass(frozen=True)
class FilterOptions:
    """Which detections count.

    Attributes:
        classes: Class names; None for all.
        conf: Lowest confidence, 0..1.
        class_conf: Lowest confidence of some classes, instead of ``conf``.
        min_size, max_size: Width and height of a box: shares of the picture's if both are at most
            1 (or little more, see :data:`~.shapes.OVERSHOOT`), else pixels.
        region: Corners of the polygon that a box's centre must lie in, shares or pixels as in
            :func:`~.shapes.units_of`; None for the whole picture.
    """

    classes: tuple[str, ...] | None = None
    conf: Share = 0.3
    class_conf: Mapping[str, Share] = field(default_factory=dict)
    min_size: Point | None = None
    max_size: Point | None = None
    region: tuple[Point, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("min_size", "max_size"):
            size = getattr(self, name)
            if size is not None and not min(size) >= 0:
                raise InvalidValueError(f"{name} must be at least 0", got=list(size))
        if self.region is not None:
            check_polygon(self.region, "the region", units_of(self.region, "the region"))

    @property
    def lowest(self) -> float:
        return min([self.conf, *self.class_conf.values()])


class DetectionFilter:
    """The options made ready for a model's classes; raises as :func:`check_classes`."""

    def __init__(self, options: FilterOptions, class_names: Sequence[str]) -> None:
        check_classes([*(options.classes or ()), *options.class_conf], class_names)
        self.options = options
        least = [options.class_conf.get(name, options.conf) for name in class_names]
        self._thresholds = np.array(least, np.float32)
        wanted = options.classes
        self._wanted = np.array([wanted is None or name in wanted for name in class_names], bool)

    def confident(self, found: Detections) -> npt.NDArray[np.bool_]:
        """Whether each detection is confident enough for its class; bool [N]."""
        enough: npt.NDArray[np.bool_] = found.confidence >= self._thresholds[found.class_id]
        return enough

    def fitting(self, found: Detections, width: int, height: int) -> npt.NDArray[np.bool_]:
        """Whether class, size and place are asked for, in a picture of this size; bool [N]."""
        options = self.options
        keep: npt.NDArray[np.bool_] = self._wanted[found.class_id]
        low, high = found.xyxy[:, :2], found.xyxy[:, 2:]
        if options.min_size is not None:
            keep &= (high - low >= to_pixels([options.min_size], width, height)).all(axis=1)
        if options.max_size is not None:
            keep &= (high - low <= to_pixels([options.max_size], width, height)).all(axis=1)
        if options.region is not None:
            corners = to_pixels(options.region, width, height)
            for index, center in enumerate(((low + high) / 2).tolist()):
                keep[index] &= cv2.pointPolygonTest(corners, center, measureDist=False) >= 0
        return keep


def check_classes(wanted: Sequence[str], class_names: Sequence[str]) -> None:
    """Raises InvalidValueError, with the nearest name, if the model lacks one."""
    for name in wanted:
        if name not in class_names:
            hint = nearest(name, class_names) or f"it has {', '.join(class_names)}"
            raise InvalidValueError("the model has no such class", got=name, hint=hint)
