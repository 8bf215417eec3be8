"""What a source reports: classes, confidence per class, size, and where in the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.suggest import nearest

Point = tuple[float, float]


@dataclass(frozen=True)
class FilterOptions:
    """Which detections count.

    Attributes:
        classes: Class names; None for all.
        conf: Lowest confidence, 0..1.
        class_conf: Lowest confidence of some classes, instead of ``conf``.
        min_size, max_size: Width and height of a box: pixels, or, if both are at most 1, shares of
            the picture's.
        region: Corners of the polygon that a box's centre must lie in: pixels, or, if none is above
            1, shares of the picture; None for the whole picture.
    """

    classes: tuple[str, ...] | None = None
    conf: float = 0.3
    class_conf: Mapping[str, float] = field(default_factory=dict)
    min_size: Point | None = None
    max_size: Point | None = None
    region: tuple[Point, ...] | None = None

    def __post_init__(self) -> None:
        for value in (self.conf, *self.class_conf.values()):
            if not 0 <= value <= 1:
                raise InvalidValueError("a confidence must be 0 to 1", got=value)
        for size in (self.min_size, self.max_size):
            if size is not None and not min(size) >= 0:
                raise InvalidValueError("a size must not be negative", got=list(size))
        if self.region is not None:
            check_polygon(self.region, "the region")

    @property
    def lowest(self) -> float:
        """The lowest confidence that any class may have."""
        return min([self.conf, *self.class_conf.values()])


class DetectionFilter:
    """The options made ready for a model's classes.

    Raises:
        InvalidValueError: If the model lacks a class; the text names the nearest one.
    """

    def __init__(self, options: FilterOptions, class_names: Sequence[str]) -> None:
        check_classes([*(options.classes or ()), *options.class_conf], class_names)
        self.options = options
        self._thresholds = np.array(
            [options.class_conf.get(name, options.conf) for name in class_names], np.float32
        )
        wanted = options.classes
        self._wanted = np.array([wanted is None or name in wanted for name in class_names], bool)

    def confident(self, found: Detections) -> npt.NDArray[np.bool_]:
        """Whether each detection is confident enough for its class; bool [N]."""
        enough: npt.NDArray[np.bool_] = found.confidence >= self._thresholds[found.class_id]
        return enough

    def fitting(self, found: Detections, width: int, height: int) -> npt.NDArray[np.bool_]:
        """Whether class, size and place of each detection are asked for; bool [N].

        Args:
            found: In pixels of a picture of ``width`` x ``height``.
            width, height: Pixels.
        """
        options = self.options
        keep: npt.NDArray[np.bool_] = self._wanted[found.class_id]
        if options.min_size is None and options.max_size is None and options.region is None:
            return keep
        boxes = found.xyxy
        size = boxes[:, 2:] - boxes[:, :2]
        if options.min_size is not None:
            keep &= (size >= to_pixels([options.min_size], width, height)).all(axis=1)
        if options.max_size is not None:
            keep &= (size <= to_pixels([options.max_size], width, height)).all(axis=1)
        if options.region is not None:
            corners = to_pixels(options.region, width, height)
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = [
                cv2.pointPolygonTest(corners, (x, y), measureDist=False) >= 0
                for x, y in centers.tolist()
            ]
            keep &= np.array(inside, bool)
        return keep


def check_classes(wanted: Sequence[str], class_names: Sequence[str]) -> None:
    """Checks class names against a model's.

    Raises:
        InvalidValueError: If the model lacks one, with the nearest name.
    """
    for name in wanted:
        if name not in class_names:
            hint = nearest(name, class_names) or f"it has {', '.join(class_names)}"
            raise InvalidValueError("the model has no such class", got=name, hint=hint)


def to_pixels(points: Sequence[Point], width: int, height: int) -> npt.NDArray[np.float32]:
    """Points in pixels of a picture, float32 [N, 2].

    Points of which no coordinate is above 1 are shares of the picture; others are pixels already.
    """
    place = np.array(points, np.float32)
    return place * np.array([width, height], np.float32) if (place <= 1).all() else place


def check_polygon(points: Sequence[Point], what: str) -> None:
    """Checks that a polygon has an area.

    Raises:
        InvalidValueError: If it has not, or a coordinate is negative or not a number.
    """
    if len(points) < 3:
        raise InvalidValueError(f"{what} must have at least 3 corners", got=len(points))
    check_points(points, what)
    # The area of a polygon of shares is below 1 whatever it covers: hence relative to its extent.
    place = np.array(points, np.float64)
    extent = np.ptp(place, axis=0).max()
    x, y = (place - place[0]).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    if extent == 0 or area < 1e-4 * extent**2:
        raise InvalidValueError(f"{what} has no area")


def check_points(points: Sequence[Point], what: str) -> None:
    """Checks coordinates.

    Raises:
        InvalidValueError: If one is negative or not a number.
    """
    for point in points:
        if not all(np.isfinite(v) and v >= 0 for v in point):
            raise InvalidValueError(
                f"{what}: coordinates are pixels or shares of the picture, from 0", got=list(point)
            )
