"""Places in the picture: zones, lines and regions, in shares of the picture or in pixels.

A file of them: ``{"camera": {"zones": [{"name": "door", "polygon": [[x, y], ...]}], "lines":
[{"name": "gate", "points": [[x1, y1], [x2, y2]]}]}}``. :func:`parse_shapes` checks them, whether
they come from this file, the YAML, the web page or Python.

``"units": "shares"`` (of the picture's width and height, 0 to 1) or ``"units": "pixels"`` beside
"zones" says what all coordinates of a source are in, in a zone or line what its own are. Without
``units`` a shape is in shares if no coordinate is above 1.05, and in pixels if one is 8 or above;
between the two it is refused. Shares up to 0.05 outside the picture are moved to its edge, because
drawing tools overshoot. The web page writes shares.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.support.suggest import nearest
from trt_afdet.support.text import read_text

Point = tuple[float, float]
#: What coordinates are: shares of the picture's width and height, 0 to 1, or its pixels.
Units = Literal["shares", "pixels"]

OVERSHOOT = 0.05  # How far shares may lie outside 0 to 1; they are clamped.
#: Coordinates without units that reach no further are refused: too far for shares, too near for
#: pixels.
FEWEST_PIXELS = 8
MOST_PIXELS = 65535  # Largest width or height of a picture.
MOST_SHAPES = 64  # Most zones, and most lines, of one source.
MOST_CORNERS = 128  # Most corners of one zone.
LONGEST_NAME = 100
#: Shorter lines are refused as slips of the finger.
SHORTEST_LINE = {"shares": 0.005, "pixels": 2.0}


@dataclass(frozen=True)
class Shape:
    """``units`` says what the points are in; None: shares if none is above 1.05, else pixels."""

    name: str
    points: tuple[Point, ...]
    units: Units | None = None


class Zone(Shape):
    """A polygon of three or more corners."""


class Line(Shape):
    """A line from one point to another.

    An object that crosses it from left to right, as seen by somebody who walks from the first point
    to the second, goes ``in``; the other way is ``out``.
    """


@dataclass(frozen=True)
class Shapes:
    """The zones and lines of a source; their names differ."""

    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.zones or self.lines)

    @property
    def all(self) -> list[Shape]:
        return [*self.zones, *self.lines]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """As in the file: each shape in pixels says so."""

        def shape(item: Shape, key: str) -> dict[str, Any]:
            units = {"units": "pixels"} if item.units == "pixels" else {}
            return {"name": item.name, key: [list(point) for point in item.points], **units}

        return {
            "zones": [shape(zone, "polygon") for zone in self.zones],
            "lines": [shape(line, "points") for line in self.lines],
        }

    def in_shares(self, width: int, height: int) -> Shapes:
        """The same with all coordinates in shares of a picture of this size, in pixels."""

        def shares(item: Any) -> Any:
            points = item.points
            if item.units == "pixels":
                points = clamped([(x / width, y / height) for x, y in points])
            return replace(item, points=points, units="shares")

        return Shapes(tuple(map(shares, self.zones)), tuple(map(shares, self.lines)))

    def outside(self, width: int, height: int) -> list[str]:
        """What to tell a user about shapes that do not lie within a picture of this size."""
        return [
            f"{type(item).__name__.lower()} {item.name} {text}"
            for item in self.all
            if (text := outside(item.points, width, height, item.units)) is not None
        ]


def units_of(points: Sequence[Point], what: str) -> Units:
    """Shares if no number is above 1 + OVERSHOOT, else pixels; InvalidValueError if not clear."""
    largest = max((v for point in points for v in point), default=0.0)
    if 1 + OVERSHOOT < largest < FEWEST_PIXELS:
        what = f"{what}: are the coordinates shares of the picture (0 to 1) or pixels?"
        hint = "say units: shares or units: pixels"
        raise InvalidValueError(what, got=f"{largest:g}", hint=hint)
    return "shares" if largest <= 1 + OVERSHOOT else "pixels"


def clamped(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple((min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)) for x, y in points)


def to_pixels(
    points: Sequence[Point], width: int, height: int, units: Units | None = None
) -> npt.NDArray[np.float32]:
    """Points in pixels of a picture of ``width`` x ``height``, float32 [N, 2].

    ``units`` says what they are; None: shares if none is above 1 + :data:`OVERSHOOT`, else pixels.
    """
    place = np.array(points, np.float32)
    if units == "pixels" or (units is None and not (place <= 1 + OVERSHOOT).all()):
        return place
    return np.clip(place, 0, 1) * np.array([width, height], np.float32)


def outside(points: Sequence[Point], width: int, height: int, units: Units | None) -> str | None:
    """What to tell a user whose shape reaches out of the picture by more than OVERSHOOT."""
    place = to_pixels(points, width, height, units)
    size = np.array([width, height], np.float32)
    low, high = place.min(axis=0), place.max(axis=0)
    gone = (low > size).any() or (high < 0).any()
    if not gone and not (high > size * (1 + OVERSHOOT)).any():
        return None
    where = "lies outside the picture" if gone else "reaches out of the picture"
    return f"{where}: it goes to x {high[0]:g}, y {high[1]:g} of {width}x{height} pixels"


def check_points(points: Sequence[Point], what: str, units: Units) -> None:
    """Raises InvalidValueError if a coordinate is not a number, or out of range."""
    low, high, wrong, hint = 0.0, float(MOST_PIXELS), f"pixels must be 0 to {MOST_PIXELS}", None
    if units == "shares":
        low, high, wrong = -OVERSHOOT, 1 + OVERSHOOT, "shares of the picture must be 0 to 1"
        hint = "for pixels, say units: pixels"
    for point in points:
        if not all(map(math.isfinite, point)):
            raise InvalidValueError(f"{what}: coordinates must be numbers", got=list(point))
        if not all(low <= v <= high for v in point):
            raise InvalidValueError(f"{what}: {wrong}", got=list(point), hint=hint)


def check_polygon(points: Sequence[Point], what: str, units: Units) -> None:
    """Raises InvalidValueError if it has no area, its sides cross, or a point is out of range."""
    if len(points) < 3:
        raise InvalidValueError(f"{what} must have at least 3 corners", got=len(points))
    check_points(points, what, units)
    # The halves of a bow tie cancel each other out, so look for sides that cross before the area.
    sides = list(zip(points, [*points[1:], points[0]], strict=True))
    for i, first in enumerate(sides):
        # Neighbouring sides share a corner; the first and the last are neighbours too.
        for second in sides[i + 2 : len(sides) - (i == 0)]:
            if _cross(*first, *second):
                raise InvalidValueError(f"{what}: its sides cross each other")
    # In shares every area is below 1: compare it with the polygon's own extent.
    place = np.array(points) - points[0]
    extent = float(np.ptp(place, axis=0).max())
    if extent == 0 or cv2.contourArea((place / extent).astype(np.float32)) < 1e-4:
        raise InvalidValueError(f"{what} has no area")


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def parse_shapes(value: object, what: str = "the zones") -> Shapes:
    """A source's zones and lines as the module describes them; errors begin with ``what``."""
    table = _table(value, what, ("zones", "lines", "units"))
    zones = []
    for item in _list(table.get("zones", []), f"{what}: zones"):
        name = _name(item, f"{what}: a zone", "polygon")
        corners = _without_repeats(_points(item.get("polygon"), f"{what}: polygon of {name}"))
        if len(corners) > MOST_CORNERS:
            raise InvalidValueError(f"{what}: zone {name} has more than {MOST_CORNERS} corners")
        corners, units = _placed(corners, item, table, f"{what}: zone {name}")
        corners = _without_repeats(corners)
        check_polygon(corners, f"{what}: zone {name}", units)
        zones.append(Zone(name, corners, units))
    lines = []
    for item in _list(table.get("lines", []), f"{what}: lines"):
        name = _name(item, f"{what}: a line", "points")
        points = _points(item.get("points"), f"{what}: points of {name}")
        points, units = _placed(points, item, table, f"{what}: line {name}")
        if len(points) != 2 or points[0] == points[1]:
            raise InvalidValueError(f"{what}: line {name} needs two different points")
        if math.dist(*points) < SHORTEST_LINE[units]:
            raise InvalidValueError(f"{what}: line {name} is too short")
        lines.append(Line(name, points, units))
    if max(len(zones), len(lines)) > MOST_SHAPES:
        most = f"at most {MOST_SHAPES} zones and {MOST_SHAPES} lines"
        raise InvalidValueError(f"{what}: a source has {most}")
    shapes = Shapes(tuple(zones), tuple(lines))
    for name, number in Counter(item.name for item in shapes.all).items():
        if number > 1:
            raise InvalidValueError(f"{what}: two zones or lines have the same name", got=name)
    return shapes


def read_zones(path: Path) -> dict[str, Shapes]:
    """The zones and lines of each source in a file; MissingFileError, CorruptFileError."""
    try:
        table = json.loads(read_text(path), object_pairs_hook=_no_repeats)
        if not isinstance(table, dict):
            raise InvalidValueError("a file of zones holds one object with an entry per source")
        return {source: parse_shapes(value, f"source {source}") for source, value in table.items()}
    except FileNotFoundError as error:
        raise MissingFileError("the file of zones does not exist", got=path) from error
    except (OSError, ValueError, RecursionError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise CorruptFileError(f"{path} is not a file of zones: {text}") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InvalidValueError("a key is given twice", got=name)
    return table


def _table(value: object, what: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError(f"{what} must be an object with {' and '.join(keys[:2])}")
    for key in value:
        if key not in keys:
            hint = nearest(str(key), keys) or f"known: {', '.join(keys)}"
            raise InvalidValueError(f"{what}: unknown key", got=key, hint=hint)
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidValueError(f"{what} must be a list")
    return value


def _name(item: Any, what: str, points: str) -> str:
    name = _table(item, what, ("name", points, "units")).get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InvalidValueError(f"{what} needs a name of printable characters", got=repr(name)[:60])
    if len(name.strip()) > LONGEST_NAME:
        what = f"{what}: a name has at most {LONGEST_NAME} characters"
        raise InvalidValueError(what, got=f"{name[:20]}...")
    return name.strip()


def _points(value: object, what: str) -> tuple[Point, ...]:
    points: list[Point] = []
    for point in _list(value, what):
        plain = isinstance(point, (list, tuple)) and not any(isinstance(v, bool) for v in point)
        if not plain or len(point) != 2 or not all(isinstance(v, (int, float)) for v in point):
            raise InvalidValueError(f"{what}: a point is [x, y]", got=str(point)[:60])
        try:
            points.append((float(point[0]), float(point[1])))
        except OverflowError as error:
            raise InvalidValueError(f"{what}: a coordinate is enormous") from error
    return tuple(points)


def _placed(
    points: tuple[Point, ...], item: dict[str, Any], table: dict[str, Any], what: str
) -> tuple[tuple[Point, ...], Units]:
    """A shape's points, checked, and their units: its own, its source's, or guessed."""
    said = item.get("units", table.get("units"))
    if said not in (None, *get_args(Units)):
        hint = nearest(str(said), get_args(Units)) or f"one of {', '.join(get_args(Units))}"
        raise InvalidValueError(f"{what}: unknown units", got=str(said)[:60], hint=hint)
    units: Units = said or units_of([p for p in points if all(map(math.isfinite, p))], what)
    check_points(points, what, units)
    return (clamped(points) if units == "shares" else points), units


def _without_repeats(corners: tuple[Point, ...]) -> tuple[Point, ...]:
    """Other tools close a ring with its first corner again; a double click repeats a corner."""
    kept = [c for i, c in enumerate(corners) if i == 0 or c != corners[i - 1]]
    return tuple(kept[:-1] if len(kept) > 1 and kept[0] == kept[-1] else kept)
