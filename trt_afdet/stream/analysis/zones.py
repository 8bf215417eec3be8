"""What tracked objects do in zones and at lines, and the events that tell it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from time import time as now
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.analysis.shapes import Line, Point, Shapes, Zone, parse_shapes, to_pixels
from trt_afdet.stream.analysis.tracking import BACK
from trt_afdet.support.fields import Count, NotNegative, check_fields

Anchor = Literal["bottom", "center", "top", "left", "right"]
#: Which point of a box says where the object is: share of its width and height.
ANCHORS: dict[Anchor, Point] = {
    "bottom": (0.5, 1.0), "center": (0.5, 0.5), "top": (0.5, 0.0),
    "left": (0.0, 0.5), "right": (1.0, 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class ZoneOptions:
    """When something counts as an event.

    Attributes:
        anchor: See :data:`ANCHORS`.
        confirm: Frames in a row that must agree before an object is in or out of a zone.
        margin: How far an object must be beyond a zone's edge to have left, and beyond a line to
            have crossed it; share of the picture's shorter side. An object on the edge
            then does not enter and leave all the time.
        grace: An object that is not seen for more seconds has left its zones.
        dwell: Seconds in a zone after which there is a dwell event; None: never.
    """

    anchor: Anchor = "bottom"
    confirm: Count = 2
    margin: NotNegative = 0.01
    grace: NotNegative = 1.5
    dwell: NotNegative | None = 10.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class _Event:
    """What all events have in common."""

    kind: ClassVar[str] = ""
    source: str  # The camera.
    wall_time: float  # Seconds since 1970.

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict: ``kind`` and the fields; seconds carry 3 decimals."""
        return {"kind": self.kind} | {
            "class" if k == "class_name" else k: round(v, 3) if isinstance(v, float) else v
            for k, v in vars(self).items()
        }


@dataclass(frozen=True)
class _InZone(_Event):
    zone: str
    track_id: int
    class_name: str


@dataclass(frozen=True)
class ObjectEntered(_InZone):
    """An object is in a zone."""

    kind: ClassVar[str] = "enter"


@dataclass(frozen=True)
class ObjectLeft(_InZone):
    """An object left a zone after so many seconds."""

    kind: ClassVar[str] = "leave"
    seconds: float
    reason: str = "moved"  # Or "lost": not seen for the grace time; or "zone gone" or changed.


@dataclass(frozen=True)
class ObjectDwelled(_InZone):
    """An object has been in a zone for the dwell time, ``seconds``; once per stay."""

    kind: ClassVar[str] = "dwell"
    seconds: float


@dataclass(frozen=True)
class LineCrossed(_Event):
    """An object has crossed a line."""

    kind: ClassVar[str] = "cross"
    line: str
    track_id: int
    class_name: str
    direction: str  # "in" or "out".
    total_in: int  # Crossings so far, this one included.
    total_out: int


@dataclass(frozen=True)
class ZoneCount(_Event):
    """The number of objects in a zone has changed."""

    kind: ClassVar[str] = "count"
    zone: str
    count: int  # Objects in it now.
    classes: Mapping[str, int]  # The same by class name.
    entered: int  # Objects that have entered it so far.

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"classes": dict(self.classes)}


ZoneEvent = ObjectEntered | ObjectLeft | ObjectDwelled | LineCrossed | ZoneCount


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
    """One object and one line: which side it is on for sure, and how often it crossed since."""

    side: int = 0
    crossings: int = 0


@dataclass
class _Track:
    id: int
    anchor: Point
    class_name: str = ""
    moment: float = 0.0
    wall_time: float = 0.0
    stays: dict[Zone, _Stay] = field(default_factory=dict)
    sides: dict[Line, _Side] = field(default_factory=dict)

    def in_zone(self, zone: Zone) -> tuple[str, int, str]:
        return zone.name, self.id, self.class_name


class Zones:
    """Watches the tracked objects of one source.

    ::

        zones = Zones({"left half": [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]}, size=(640, 480))
        events = zones.update(tracker.update(found))

    Args:
        zones: Corners of each zone by its name, in shares of the picture (0 to 1) or in pixels; or
            zones and lines as :class:`Shapes`.
        lines: The two points of each line by its name.
        size: Width and height of the picture, pixels; needed for shares.
        classes: Names of the classes that count; None for all.
        options: When something counts as an event.
        source: The camera's name, for the events.

    Raises:
        InvalidValueError: If a shape is not valid.
    """

    def __init__(
        self,
        zones: Shapes | Mapping[str, Iterable[Point]] | None = None,
        lines: Mapping[str, Iterable[Point]] | None = None,
        *,
        size: tuple[int, int] | None = None,
        classes: Collection[str] | None = None,
        options: ZoneOptions | None = None,
        source: str = "",
    ) -> None:
        if not isinstance(zones, Shapes):
            areas = [{"name": n, "polygon": _plain(p)} for n, p in (zones or {}).items()]
            ways = [{"name": n, "points": _plain(p)} for n, p in (lines or {}).items()]
            zones = parse_shapes({"zones": areas, "lines": ways})
        elif lines is not None:
            raise InvalidValueError("Shapes hold their lines", hint="Zones(Shapes(zones, lines))")
        self.source = source
        self._size = size
        self._classes = classes
        self._wanted = (zones, options or ZoneOptions())
        self._shapes, self._options = self._wanted
        self._tracks: dict[int, _Track] = {}
        self._entered: Counter[Zone] = Counter()
        self._crossed: Counter[tuple[Line, str]] = Counter()
        self._events: list[ZoneEvent] = []  # Of the current frame.

    @property
    def shapes(self) -> Shapes:
        """The watched zones and lines."""
        return self._wanted[0]

    @property
    def counts(self) -> dict[str, int]:
        """Objects in each zone now, by the zone's name."""
        return {zone.name: self._inside(zone).total() for zone in self._shapes.zones}

    @property
    def crossings(self) -> dict[str, tuple[int, int]]:
        """Crossings of each line so far, in and out, by the line's name."""
        lines = self._shapes.lines
        return {x.name: (self._crossed[x, "in"], self._crossed[x, "out"]) for x in lines}

    def replace(self, shapes: Shapes | None = None, options: ZoneOptions | None = None) -> None:
        """Watches other zones and lines from the next frame on.

        An object stays in a zone that does not change; a zone that goes is left by all. May be
        called from one other thread than :meth:`update`.
        """
        before = self._wanted
        self._wanted = (before[0] if shapes is None else shapes, options or before[1])

    def update(
        self,
        tracked: Detections,
        time: float | None = None,
        *,
        wall_time: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> tuple[ZoneEvent, ...]:
        """Takes the objects of a frame.

        Args:
            tracked: With ``tracker_id``; objects without a track are left out.
            time: Seconds on one time base for all frames; durations are differences of it. By
                default the clock's.
            wall_time: Time of the events; ``time`` by default.
            size: Width and height of the frame, pixels; the constructor's by default.

        Returns:
            What happened, oldest first.

        Raises:
            InvalidValueError: If the objects are not tracked, or the size is needed and missing.
        """
        moment = now() if time is None else time
        wall_time = moment if wall_time is None else wall_time
        self._events = []
        changed: set[Zone] = set()
        if (wanted := self._wanted) != (self._shapes, self._options):
            self._adopt(*wanted, moment, wall_time)
        if not self._shapes and not self._tracks:
            return ()
        if self._shapes and len(tracked) and tracked.tracker_id is None:
            raise InvalidValueError("zones need tracked objects", hint="Tracker().update(found)")
        size = size or self._size or self._extent()
        margin = self._options.margin * min(size)
        polygons = {z: to_pixels(z.points, *size, z.units) for z in self._shapes.zones}
        lines = {x: to_pixels(x.points, *size, x.units) for x in self._shapes.lines}
        share = np.array(ANCHORS[self._options.anchor], np.float32)
        anchors = tracked.xyxy[:, :2] * (1 - share) + tracked.xyxy[:, 2:] * share
        objects = zip(tracked.tracks, tracked.names, anchors.tolist(), strict=True)
        for track_id, name, (x, y) in objects:
            if track_id is None or (self._classes is not None and name not in self._classes):
                continue
            if (track := self._tracks.get(track_id)) is None:
                track = self._tracks[track_id] = _Track(track_id, anchor=(x, y))
            before, track.anchor, track.class_name = track.anchor, (x, y), name
            track.moment, track.wall_time = moment, wall_time
            for zone, corners in polygons.items():
                if self._stay(track, zone, corners, margin):
                    changed.add(zone)
            for line, ends in lines.items():
                self._side(track, line, ends, before, margin)
        changed |= self._forget_lost(moment)
        for zone in self._shapes.zones:
            if zone in changed:
                inside = self._inside(zone)
                count = (zone.name, inside.total(), dict(inside), self._entered[zone])
                self._events.append(ZoneCount(self.source, wall_time, *count))
        return tuple(self._events)

    def _extent(self) -> tuple[int, int]:
        """The size of a picture that holds all shapes, for those in pixels."""
        items = self._shapes.all
        if any(item.units != "pixels" for item in items):
            what = "shapes in shares of the picture need its size"
            raise InvalidValueError(what, hint="size=(width, height)")
        points = np.array([point for item in items for point in item.points] or [(1, 1)])
        width, height = np.ceil(points.max(axis=0)).astype(int).tolist()
        return width, height

    def _stay(
        self, track: _Track, zone: Zone, corners: npt.NDArray[np.float32], margin: float
    ) -> bool:
        """One object and one zone; True if it has entered or left."""
        stay = track.stays.setdefault(zone, _Stay())
        depth = cv2.pointPolygonTest(corners, track.anchor, measureDist=True)
        inside = depth >= (-margin if stay.inside else 0.0)
        who = track.in_zone(zone)
        if inside == stay.inside:
            stay.doubts = 0
            dwell, seconds = self._options.dwell, track.moment - stay.since
            if inside and dwell is not None and seconds >= dwell and not stay.dwelled:
                stay.dwelled = True
                self._events.append(ObjectDwelled(self.source, track.wall_time, *who, seconds))
            return False
        if stay.doubts == 0:
            stay.doubted = (track.moment, track.wall_time)
        stay.doubts += 1
        if stay.doubts < self._options.confirm:
            return False
        moment, wall_time = stay.doubted
        if inside:
            self._entered[zone] += 1
            self._events.append(ObjectEntered(self.source, wall_time, *who))
        else:
            self._events.append(ObjectLeft(self.source, wall_time, *who, moment - stay.since))
        track.stays[zone] = _Stay(inside=inside, since=moment)
        return True

    def _side(
        self, track: _Track, line: Line, ends: npt.NDArray[np.float32], before: Point, margin: float
    ) -> None:
        state = track.sides.setdefault(line, _Side())
        (x1, y1), (x2, y2) = ends.tolist()
        away = _beside((x1, y1), (x2, y2), track.anchor)
        # An object that walks around the end of a line does not cross it: look at each step.
        state.crossings += _crossing((x1, y1), (x2, y2), before, track.anchor)
        if abs(away) <= margin:
            return
        side, direction = (1, "in") if away > 0 else (-1, "out")
        if state.side == -side and state.crossings * side > 0:
            self._crossed[line, direction] += 1
            totals = self._crossed[line, "in"], self._crossed[line, "out"]
            who = (line.name, track.id, track.class_name)
            self._events.append(LineCrossed(self.source, track.wall_time, *who, direction, *totals))
        state.side, state.crossings = side, 0

    def _forget_lost(self, moment: float) -> set[Zone]:
        changed: set[Zone] = set()
        for track in list(self._tracks.values()):
            # A file that starts again is as good as a long absence.
            if -BACK <= moment - track.moment <= self._options.grace:
                continue
            del self._tracks[track.id]
            for zone in list(track.stays):
                if self._leaves(track, zone, track.moment, track.wall_time, "lost"):
                    changed.add(zone)
        return changed

    def _leaves(
        self, track: _Track, zone: Zone, moment: float, wall_time: float, reason: str
    ) -> bool:
        """Ends the stay of an object in a zone, if it was inside."""
        stay = track.stays.pop(zone)
        if stay.inside:
            who, seconds = track.in_zone(zone), moment - stay.since
            self._events.append(ObjectLeft(self.source, wall_time, *who, seconds, reason))
        return stay.inside

    def _inside(self, zone: Zone) -> Counter[str]:
        tracks = self._tracks.values()
        return Counter(t.class_name for t in tracks if t.stays.get(zone, _Stay()).inside)

    def _adopt(self, shapes: Shapes, options: ZoneOptions, moment: float, wall_time: float) -> None:
        self._shapes, self._options = shapes, options
        for track in self._tracks.values():
            for zone in [zone for zone in track.stays if zone not in shapes.zones]:
                self._leaves(track, zone, moment, wall_time, "zone gone")
            track.sides = {line: s for line, s in track.sides.items() if line in shapes.lines}
        self._entered = Counter({z: n for z, n in self._entered.items() if z in shapes.zones})
        self._crossed = Counter({k: n for k, n in self._crossed.items() if k[0] in shapes.lines})


def _plain(points: Iterable[Point]) -> list[list[float]]:
    return [[float(value) for value in point] for point in points]


def _beside(start: Point, end: Point, point: Point) -> float:
    """Distance from the line through two points; above 0 on its right as seen along it."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    return float((dx * (point[1] - start[1]) - dy * (point[0] - start[0])) / np.hypot(dx, dy))


def _crossing(start: Point, end: Point, before: Point, now: Point) -> int:
    """Whether a step crosses the line between its ends: 1 to the right, -1 to the left, or 0."""
    # A point on the line counts as right of it, so no crossing is missed or counted twice.
    was, is_now = _beside(start, end, before) >= 0, _beside(start, end, now) >= 0
    if was == is_now or (_beside(before, now, start) >= 0) == (_beside(before, now, end) >= 0):
        return 0
    return 1 if is_now else -1
