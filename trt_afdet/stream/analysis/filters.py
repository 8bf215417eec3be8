"""What a source reports: classes, confidence per class, size, and where in the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.support.suggest import nearest

Point = tuple[float, float]
#: What coordinates are: shares of the picture's width and height, 0 to 1, or its pixels.
Units = Literal["shares", "pixels"]

#: How far shares may lie outside 0 to 1: drawing tools overshoot a little. They are clamped.
OVERSHOOT = 0.05
#: Shapes that do not say what they are in, and reach no further than this, are not taken: too far
#: for shares, too small for pixels.
FEWEST_PIXELS = 8
#: No picture is wider or higher.
MOST_PIXELS = 65535


@dataclass(frozen=True)
class FilterOptions:
    """Which detections count.

    Attributes:
        classes: Class names; None for all.
        conf: Lowest confidence, 0..1.
        class_conf: Lowest confidence of some classes, instead of ``conf``.
        min_size, max_size: Width and height of a box: shares of the picture's if both are at most
            1 (or little more, see :data:`OVERSHOOT`), else pixels.
        region: Corners of the polygon that a box's centre must lie in, shares or pixels as in
            :func:`units_of`; None for the whole picture.
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
            check_polygon(self.region, "the region", units_of(self.region, "the region"))

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


def units_of(points: Sequence[Point], what: str) -> Units:
    """What points are in that do not say it.

    Shares if none is above 1, or by no more than :data:`OVERSHOOT`; else pixels.

    Raises:
        InvalidValueError: If they are too large for shares and too small for pixels.
    """
    largest = max((v for point in points for v in point), default=0.0)
    if largest <= 1 + OVERSHOOT:
        return "shares"
    if largest < FEWEST_PIXELS:
        raise InvalidValueError(
            f"{what}: are the coordinates shares of the picture (0 to 1) or pixels?",
            got=f"{largest:g}",
            hint="say units: shares or units: pixels",
        )
    return "pixels"


def clamped(points: Sequence[Point]) -> tuple[Point, ...]:
    """Shares within 0 to 1."""
    return tuple((min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)) for x, y in points)


def to_pixels(
    points: Sequence[Point], width: int, height: int, units: Units | None = None
) -> npt.NDArray[np.float32]:
    """Points in pixels of a picture, float32 [N, 2].

    Args:
        points: Shares of the picture, or pixels already.
        width, height: Of the picture, pixels.
        units: What they are; None: shares if none is above 1 + :data:`OVERSHOOT`.
    """
    place = np.array(points, np.float32)
    if units == "pixels" or (units is None and not (place <= 1 + OVERSHOOT).all()):
        return place
    return np.clip(place, 0, 1) * np.array([width, height], np.float32)


def outside(points: Sequence[Point], width: int, height: int, units: Units | None) -> str | None:
    """What to tell a user whose shape does not lie within the picture; None if it does.

    A margin of :data:`OVERSHOOT` is not worth a word.
    """
    place = to_pixels(points, width, height, units)
    size = np.array([width, height], np.float32)
    low, high = place.min(axis=0), place.max(axis=0)
    if (low > size).any() or (high < 0).any():
        where = "lies outside the picture"
    elif (high > size * (1 + OVERSHOOT)).any():
        where = "reaches out of the picture"
    else:
        return None
    return f"{where}: it goes to x {high[0]:g}, y {high[1]:g} of {width}x{height} pixels"


def check_polygon(points: Sequence[Point], what: str, units: Units) -> None:
    """Checks that a polygon has an inside.

    Raises:
        InvalidValueError: If it has no area, its sides cross, or a coordinate is out of range.
    """
    if len(points) < 3:
        raise InvalidValueError(f"{what} must have at least 3 corners", got=len(points))
    check_points(points, what, units)
    # The area of a polygon of shares is below 1 whatever it covers: hence relative to its extent.
    place = np.array(points, np.float64)
    extent = np.ptp(place, axis=0).max()
    x, y = (place - place[0]).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    # The two halves of a bow tie cancel each other out: sides that cross come first.
    _check_sides(points, what)
    if extent == 0 or area < 1e-4 * extent**2:
        raise InvalidValueError(f"{what} has no area")


def check_points(points: Sequence[Point], what: str, units: Units) -> None:
    """Checks coordinates.

    Raises:
        InvalidValueError: If one is not a number, or out of range.
    """
    for point in points:
        if not all(np.isfinite(v) for v in point):
            raise InvalidValueError(f"{what}: coordinates must be numbers", got=list(point))
        if units == "shares" and not all(-OVERSHOOT <= v <= 1 + OVERSHOOT for v in point):
            raise InvalidValueError(
                f"{what}: shares of the picture must be 0 to 1",
                got=list(point),
                hint="for pixels, say units: pixels",
            )
        if units == "pixels" and not all(0 <= v <= MOST_PIXELS for v in point):
            raise InvalidValueError(
                f"{what}: pixels must be 0 to {MOST_PIXELS}",
                got=list(point),
            )


def _check_sides(corners: Sequence[Point], what: str) -> None:
    """A polygon whose sides cross has no inside that two people would agree on."""
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    for i, first in enumerate(sides):
        # Neighbouring sides share a corner; the first and the last are neighbours too.
        for second in sides[i + 2 : len(sides) - (i == 0)]:
            if _cross(*first, *second):
                raise InvalidValueError(f"{what}: its sides cross each other")


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
