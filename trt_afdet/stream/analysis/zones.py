"""Zones and lines in the picture, and what tracked objects do there.

A file of them: ``{"camera": {"zones": [{"name": "door", "polygon": [[x, y], ...]}], "lines":
[{"name": "gate", "points": [[x1, y1], [x2, y2]]}]}}``. :func:`parse_shapes` is the one check of
them, for this file, the YAML and the web page.

``"units": "shares"`` (of the picture's width and height, 0 to 1) or ``"units": "pixels"`` beside
"zones" says what all coordinates of a source are in, in a zone or line what its own are. A shape
that does not say is in shares if no coordinate is above 1.05, and in pixels if one is 8 or above;
between the two it is refused. Shares up to 0.05 outside the picture are moved to its edge: drawing
tools overshoot. The web page writes shares.

Whoever crosses a line from left to right, as one sees it who walks from its first point to its
second, goes ``in``; the other way is ``out``.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.stream.analysis.filters import (
    Point,
    Units,
    check_points,
    check_polygon,
    clamped,
    outside,
    to_pixels,
    units_of,
)
from trt_afdet.stream.analysis.tracking import BACK
from trt_afdet.stream.analysis.zone_events import (
    LineCrossed,
    ObjectDwelled,
    ObjectEntered,
    ObjectLeft,
    ZoneCount,
    ZoneEvent,
)
from trt_afdet.support.suggest import nearest
from trt_afdet.support.text import read_text

#: Which point of a box says where the object is: share of its width and height.
ANCHORS: dict[str, Point] = {
    "bottom": (0.5, 1.0),
    "center": (0.5, 0.5),
    "top": (0.5, 0.0),
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
}


#: Most zones, and most lines, of one source.
MOST_SHAPES = 64
#: Most corners of one zone.
MOST_CORNERS = 128
LONGEST_NAME = 100
#: A shorter line is a slip of the finger: share of the picture, pixels.
SHORTEST_LINE = {"shares": 0.005, "pixels": 2.0}


@dataclass(frozen=True)
class Zone:
    """A polygon: three or more corners.

    ``units`` says what they are in; None: shares if none is above 1.05, else pixels.
    """

    name: str
    polygon: tuple[Point, ...]
    units: Units | None = None


@dataclass(frozen=True)
class Line:
    """A line from one point to another; ``units`` as in :class:`Zone`."""

    name: str
    points: tuple[Point, Point]
    units: Units | None = None


@dataclass(frozen=True)
class Shapes:
    """The zones and lines of a source; their names differ."""

    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.zones or self.lines)

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """As in the file: each shape in pixels says so."""

        def shape(item: Zone | Line, key: str, points: tuple[Point, ...]) -> dict[str, Any]:
            units = {"units": "pixels"} if item.units == "pixels" else {}
            return {"name": item.name, key: [list(point) for point in points], **units}

        return {
            "zones": [shape(z, "polygon", z.polygon) for z in self.zones],
            "lines": [shape(line, "points", line.points) for line in self.lines],
        }

    def in_shares(self, width: int, height: int) -> Shapes:
        """The same with all coordinates in shares of a picture of this size, in pixels."""

        def shares(item: Zone | Line, points: tuple[Point, ...]) -> Any:
            if item.units != "pixels":
                return points
            return clamped([(x / width, y / height) for x, y in points])

        return Shapes(
            tuple(Zone(z.name, shares(z, z.polygon), "shares") for z in self.zones),
            tuple(Line(x.name, shares(x, x.points), "shares") for x in self.lines),
        )

    def outside(self, width: int, height: int) -> list[str]:
        """What to tell a user about shapes that do not lie within a picture of this size."""
        placed = [
            *((f"zone {z.name}", z.polygon, z.units) for z in self.zones),
            *((f"line {x.name}", x.points, x.units) for x in self.lines),
        ]
        said = [(what, outside(points, width, height, units)) for what, points, units in placed]
        return [f"{what} {text}" for what, text in said if text is not None]


@dataclass(frozen=True)
class ZoneOptions:
    """When something counts as an event.

    Attributes:
        anchor: See :data:`ANCHORS`.
        confirm: Frames in a row that must agree before an object is in or out of a zone.
        margin: How far an object must be beyond a zone's edge to have left, and beyond a line to
            have crossed it; share of the picture's shorter side. Keeps one that stands on the edge
            from entering and leaving all the time.
        grace: An object that is not seen for more seconds has left its zones.
        dwell: Seconds in a zone after which there is a dwell event; None: never.
    """

    anchor: str = "bottom"
    confirm: int = 2
    margin: float = 0.01
    grace: float = 1.5
    dwell: float | None = 10.0

    def __post_init__(self) -> None:
        if self.anchor not in ANCHORS:
            hint = nearest(self.anchor, ANCHORS) or f"one of {', '.join(ANCHORS)}"
            raise InvalidValueError("unknown anchor", got=self.anchor, hint=hint)
        if self.confirm < 1:
            raise InvalidValueError("confirm must be at least 1 frame", got=self.confirm)
        for name in ("margin", "grace", "dwell"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidValueError(f"{name} must not be negative", got=value)


@dataclass
class _Stay:
    """One object and one zone."""

    inside: bool = False
    since: float = 0.0
    dwelled: bool = False
    # Frames in a row that say otherwise, and when the first of them was.
    doubts: int = 0
    doubted: tuple[float, float] = (0.0, 0.0)


@dataclass
class _Side:
    """One object and one line: which side it is on for sure, and where it went since."""

    side: int = 0
    crossings: int = 0


@dataclass
class _Track:
    class_name: str
    anchor: Point
    moment: float
    wall_time: float
    stays: dict[Zone, _Stay] = field(default_factory=dict)
    sides: dict[Line, _Side] = field(default_factory=dict)


class ZoneMonitor:
    """Watches the tracked objects of one source.

    ``replace`` may be called from any thread, ``update`` from one.
    """

    def __init__(
        self, source: str, shapes: Shapes | None = None, options: ZoneOptions | None = None
    ) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._wanted = (shapes or Shapes(), options or ZoneOptions())
        self._shapes, self._options = self._wanted
        self._tracks: dict[int, _Track] = {}
        self._entered: Counter[Zone] = Counter()
        self._crossed: dict[Line, list[int]] = {}

    @property
    def shapes(self) -> Shapes:
        """What is watched from the next frame on."""
        with self._lock:
            return self._wanted[0]

    def replace(self, shapes: Shapes | None = None, options: ZoneOptions | None = None) -> None:
        """Watches other zones and lines from the next frame on.

        Whoever is in a zone that stays as it is stays in it; one that goes is left by all.
        """
        with self._lock:
            before_shapes, before_options = self._wanted
            self._wanted = (
                before_shapes if shapes is None else shapes,
                before_options if options is None else options,
            )

    def update(
        self,
        found: Detections,
        moment: float,
        wall_time: float,
        width: int,
        height: int,
    ) -> tuple[ZoneEvent, ...]:
        """Takes the objects of a frame.

        Args:
            found: With ``tracker_id``; those without a track are left out.
            moment: Seconds on one time base for all frames of the source; durations are
                differences of it.
            wall_time: The same moment in seconds since 1970, for the events.
            width, height: Of the frame, pixels.

        Returns:
            What happened, oldest first.
        """
        with self._lock:
            wanted = self._wanted
        events: list[ZoneEvent] = []
        changed: set[Zone] = set()
        if wanted != (self._shapes, self._options):
            self._adopt(*wanted, moment, wall_time, events)
        if not self._shapes and not self._tracks:
            return ()
        margin = self._options.margin * min(width, height)
        polygons = {z: to_pixels(z.polygon, width, height, z.units) for z in self._shapes.zones}
        lines = {x: to_pixels(x.points, width, height, x.units) for x in self._shapes.lines}
        share = np.array(ANCHORS[self._options.anchor], np.float32)
        anchors = found.xyxy[:, :2] * (1 - share) + found.xyxy[:, 2:] * share
        for track_id, name, (x, y) in zip(found.tracks, found.names, anchors.tolist(), strict=True):
            if track_id is None:
                continue
            here = (x, y)
            track = self._tracks.get(track_id)
            before = track.anchor if track is not None else here
            if track is None:
                track = self._tracks[track_id] = _Track(name, here, moment, wall_time)
            track.class_name, track.anchor = name, here
            track.moment, track.wall_time = moment, wall_time
            for zone, corners in polygons.items():
                if self._stay(track_id, track, zone, corners, margin, events):
                    changed.add(zone)
            for line, ends in lines.items():
                self._side(track_id, track, line, ends, before, margin, events)
        changed |= self._forget_lost(moment, events)
        for zone in self._shapes.zones:
            if zone in changed:
                events.append(self._count(zone, wall_time))
        return tuple(events)

    def _stay(
        self,
        track_id: int,
        track: _Track,
        zone: Zone,
        corners: npt.NDArray[np.float32],
        margin: float,
        events: list[ZoneEvent],
    ) -> bool:
        """One object and one zone; True if it has entered or left."""
        stay = track.stays.setdefault(zone, _Stay())
        depth = cv2.pointPolygonTest(corners, track.anchor, measureDist=True)
        inside = depth >= (-margin if stay.inside else 0.0)
        if inside == stay.inside:
            stay.doubts = 0
            dwell = self._options.dwell
            seconds = track.moment - stay.since
            if inside and dwell is not None and seconds >= dwell and not stay.dwelled:
                stay.dwelled = True
                who = (zone.name, track_id, track.class_name)
                events.append(ObjectDwelled(self.source, track.wall_time, *who, seconds))
            return False
        if stay.doubts == 0:
            stay.doubted = (track.moment, track.wall_time)
        stay.doubts += 1
        if stay.doubts < self._options.confirm:
            return False
        moment, wall_time = stay.doubted
        if inside:
            self._entered[zone] += 1
            events.append(
                ObjectEntered(self.source, wall_time, zone.name, track_id, track.class_name)
            )
        else:
            seconds = moment - stay.since
            who = (zone.name, track_id, track.class_name)
            events.append(ObjectLeft(self.source, wall_time, *who, seconds))
        track.stays[zone] = _Stay(inside=inside, since=moment)
        return True

    def _side(
        self,
        track_id: int,
        track: _Track,
        line: Line,
        ends: npt.NDArray[np.float32],
        before: Point,
        margin: float,
        events: list[ZoneEvent],
    ) -> None:
        """One object and one line."""
        state = track.sides.setdefault(line, _Side())
        (x1, y1), (x2, y2) = ends.tolist()
        away = _beside((x1, y1), (x2, y2), track.anchor)
        # Walking around the end of a line is not crossing it: hence the path, step by step.
        state.crossings += _crossing((x1, y1), (x2, y2), before, track.anchor)
        if abs(away) <= margin:
            return
        side = 1 if away > 0 else -1
        if state.side == -side and state.crossings * side > 0:
            totals = self._crossed.setdefault(line, [0, 0])
            totals[0 if side > 0 else 1] += 1
            events.append(
                LineCrossed(
                    self.source,
                    track.wall_time,
                    line.name,
                    track_id,
                    track.class_name,
                    "in" if side > 0 else "out",
                    *totals,
                )
            )
        state.side, state.crossings = side, 0

    def _forget_lost(self, moment: float, events: list[ZoneEvent]) -> set[Zone]:
        """Ends the stays of objects that have not been seen for too long."""
        changed: set[Zone] = set()
        for track_id, track in list(self._tracks.items()):
            # A file that starts again is as good as a long absence.
            if -BACK <= moment - track.moment <= self._options.grace:
                continue
            del self._tracks[track_id]
            for zone, stay in track.stays.items():
                if stay.inside:
                    changed.add(zone)
                    seconds = track.moment - stay.since
                    who = (zone.name, track_id, track.class_name)
                    events.append(ObjectLeft(self.source, track.wall_time, *who, seconds, "lost"))
        return changed

    def _count(self, zone: Zone, wall_time: float) -> ZoneCount:
        names = Counter(
            track.class_name
            for track in self._tracks.values()
            if (stay := track.stays.get(zone)) is not None and stay.inside
        )
        return ZoneCount(
            self.source, wall_time, zone.name, names.total(), dict(names), self._entered[zone]
        )

    def _adopt(
        self,
        shapes: Shapes,
        options: ZoneOptions,
        moment: float,
        wall_time: float,
        events: list[ZoneEvent],
    ) -> None:
        self._shapes, self._options = shapes, options
        for track_id, track in self._tracks.items():
            for zone in [z for z in track.stays if z not in shapes.zones]:
                stay = track.stays.pop(zone)
                if stay.inside:
                    who = (zone.name, track_id, track.class_name)
                    seconds = moment - stay.since
                    events.append(ObjectLeft(self.source, wall_time, *who, seconds, "zone gone"))
            for gone in [line for line in track.sides if line not in shapes.lines]:
                del track.sides[gone]
        for zone in [z for z in self._entered if z not in shapes.zones]:
            del self._entered[zone]
        for gone in [line for line in self._crossed if line not in shapes.lines]:
            del self._crossed[gone]


def parse_shapes(value: object, what: str = "the zones") -> Shapes:
    """Zones and lines of one source: the one check of them, wherever they come from.

    Args:
        value: The dict described in the module; any key may be missing.
        what: For the error.

    Raises:
        InvalidValueError: If anything in it is not as it must be.
    """
    table = _table(value, what, ("zones", "lines", "units"))
    zones = []
    for item in _list(table.get("zones", []), f"{what}: zones"):
        name = _name(item, f"{what}: a zone", "polygon")
        corners = _without_repeats(_points(item.get("polygon"), f"{what}: polygon of {name}"))
        if len(corners) > MOST_CORNERS:
            raise InvalidValueError(f"{what}: zone {name} has more than {MOST_CORNERS} corners")
        units = _units(item, table, corners, f"{what}: zone {name}")
        check_points(corners, f"{what}: zone {name}", units)
        if units == "shares":
            corners = _without_repeats(clamped(corners))
        check_polygon(corners, f"{what}: zone {name}", units)
        zones.append(Zone(name, corners, units))
    lines = []
    for item in _list(table.get("lines", []), f"{what}: lines"):
        name = _name(item, f"{what}: a line", "points")
        points = _points(item.get("points"), f"{what}: points of {name}")
        units = _units(item, table, points, f"{what}: line {name}")
        check_points(points, f"{what}: line {name}", units)
        if units == "shares":
            points = clamped(points)
        if len(points) != 2 or points[0] == points[1]:
            raise InvalidValueError(f"{what}: line {name} needs two different points")
        if math.dist(*points) < SHORTEST_LINE[units]:
            raise InvalidValueError(f"{what}: line {name} is too short")
        lines.append(Line(name, (points[0], points[1]), units))
    if max(len(zones), len(lines)) > MOST_SHAPES:
        raise InvalidValueError(
            f"{what}: a source has at most {MOST_SHAPES} zones and {MOST_SHAPES} lines"
        )
    names = Counter([*(zone.name for zone in zones), *(line.name for line in lines)])
    for name, number in names.items():
        if number > 1:
            raise InvalidValueError(f"{what}: two zones or lines have the same name", got=name)
    return Shapes(tuple(zones), tuple(lines))


def read_zones(path: Path) -> dict[str, Shapes]:
    """Reads a file of zones; a byte-order mark at its start is no part of it.

    Raises:
        MissingFileError: If there is none.
        CorruptFileError: If it is not what it must be.
    """
    try:
        table = json.loads(read_text(path), object_pairs_hook=_no_repeats)
        if not isinstance(table, dict):
            raise InvalidValueError("a file of zones holds one object with an entry per source")
        return {source: parse_shapes(value, f"source {source}") for source, value in table.items()}
    except FileNotFoundError as error:
        raise MissingFileError("the file of zones does not exist", got=path) from error
    except (OSError, ValueError, RecursionError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise CorruptFileError(f"{path} is no file of zones: {text}") from error


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
        raise InvalidValueError(
            f"{what}: a name has at most {LONGEST_NAME} characters", got=f"{name[:20]}..."
        )
    return name.strip()


def _units(
    item: dict[str, Any], table: dict[str, Any], points: Sequence[Point], what: str
) -> Units:
    """What a shape's points are in: it says so, or its source does, or they themselves do."""
    units = item.get("units", table.get("units"))
    if units is None:
        return units_of([p for p in points if all(map(math.isfinite, p))], what)
    if units not in get_args(Units):
        hint = nearest(str(units), get_args(Units)) or f"one of {', '.join(get_args(Units))}"
        raise InvalidValueError(f"{what}: unknown units", got=str(units)[:60], hint=hint)
    known: Units = units
    return known


def _points(value: object, what: str) -> tuple[Point, ...]:
    points: list[Point] = []
    for point in _list(value, what):
        if not (
            isinstance(point, (list, tuple))
            and len(point) == 2
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in point)
        ):
            raise InvalidValueError(f"{what}: a point is [x, y]", got=str(point)[:60])
        try:
            points.append((float(point[0]), float(point[1])))
        except OverflowError as error:
            raise InvalidValueError(f"{what}: a coordinate is enormous") from error
    return tuple(points)


def _without_repeats(corners: tuple[Point, ...]) -> tuple[Point, ...]:
    """Other tools close a ring with its first corner again; a double click repeats a corner."""
    kept = [c for i, c in enumerate(corners) if i == 0 or c != corners[i - 1]]
    return tuple(kept[:-1] if len(kept) > 1 and kept[0] == kept[-1] else kept)


def _beside(start: Point, end: Point, point: Point) -> float:
    """Distance from the line through two points; above 0 on the right of one who walks along."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    return float((dx * (point[1] - start[1]) - dy * (point[0] - start[0])) / np.hypot(dx, dy))


def _crossing(start: Point, end: Point, before: Point, now: Point) -> int:
    """Whether a step crosses the line between its ends: 1 to the right, -1 to the left, or 0."""
    # A point on the line counts as right of it, so no crossing is missed or counted twice.
    was, is_now = _beside(start, end, before) >= 0, _beside(start, end, now) >= 0
    if was == is_now:
        return 0
    if (_beside(before, now, start) >= 0) == (_beside(before, now, end) >= 0):
        return 0
    return 1 if is_now else -1
