"""What the page knows: the newest frame of every camera, what happened, and what was counted.

Filled by the pipeline's thread, read by the server's. Everything in it has a fixed size, and taking
a frame costs the same whether nobody watches or twenty do.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from trt_afdet.draw import class_color
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.support.redact import redact

#: Seconds per point of the charts, and points kept: five minutes.
BUCKET = 2.0
POINTS = 150
#: Events kept.
EVENTS = 300
#: Classes per point of a chart; the most frequent ones.
CLASSES = 12
#: Most zones and lines of a camera with figures.
TALLIES = 256
#: Most classes that have a colour of their own.
COLORS = 1000


@dataclass(frozen=True)
class Slot:
    """The newest frame of a camera.

    Attributes:
        camera: Its public name.
        serial: Grows with every frame taken, over all cameras.
        result: The frame and what was found in it.
    """

    camera: str
    serial: int
    result: StreamResult


@dataclass
class _Counting:
    """Objects per frame over the last minutes, a point per :data:`BUCKET` seconds."""

    bucket: int = -1
    frames: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    points: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=POINTS))


class Hub:
    """See the module. Thread-safe.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.names = PublicNames()
        #: Called after every frame and event, from the thread that brought it; must be quick.
        self.listener: Callable[[], None] | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._serial = 0
        self._slots: dict[str, Slot] = {}
        self._counting: dict[str, _Counting] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._states: dict[str, str] = {}
        self._tallies: dict[str, dict[str, list[int]]] = {}
        self._colors: dict[str, str] = {}
        self._class_names: tuple[str, ...] = ()

    def take(self, result: StreamResult) -> None:
        """Takes a result; the one before it of the same camera is forgotten."""
        camera = self.names.of(result.frame.source)
        found: dict[str, int] = {}
        for name in result.detections.names:
            found[name] = found.get(name, 0) + 1
        with self._lock:
            self._serial += 1
            self._slots[camera] = Slot(camera, self._serial, result)
            self._count(camera, found)
            if result.detections.class_names is not self._class_names:
                self._class_names = result.detections.class_names
                for index, name in enumerate(self._class_names[:COLORS]):
                    blue, green, red = class_color(index)
                    self._colors[name] = f"#{red:02x}{green:02x}{blue:02x}"
            for event in result.events:
                self._take_event(camera, result.frame.wall_time, _as_dict(event))
        if self.listener is not None:
            self.listener()

    def tell(self, event: StatusEvent) -> None:
        """Takes a change of a source's state; one that is only tried again is no news."""
        entry = {"kind": "state", "state": event.state, "detail": redact(event.detail)}
        with self._lock:
            # A camera that is tried again for hours must not drive everything else out.
            if event.state == "connecting" or self._states.get(event.source) == event.state:
                return
            self._states[event.source] = event.state
            self._note(self.names.of(event.source), event.wall_time, entry)
        if self.listener is not None:
            self.listener()

    def latest(self, camera: str) -> Slot | None:
        """The newest frame of a camera, by its public name."""
        with self._lock:
            return self._slots.get(camera)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of every camera's newest frame."""
        with self._lock:
            return {
                camera: (slot.result.frame.image.shape[1], slot.result.frame.image.shape[0])
                for camera, slot in self._slots.items()
            }

    def colors(self) -> dict[str, str]:
        """Colour of each class as ``#rrggbb``, the same as in annotated videos."""
        with self._lock:
            return dict(self._colors)

    def events_after(self, serial: int) -> list[dict[str, Any]]:
        """Events with a higher ``id``, oldest first."""
        with self._lock:
            return _newer(self._events, serial)

    def points_after(self, serial: int) -> list[dict[str, Any]]:
        """Points of the charts with a higher ``id``: camera, time, objects per frame by class."""
        with self._lock:
            points = [p for c in self._counting.values() for p in _newer(c.points, serial)]
        return sorted(points, key=lambda point: point["id"])

    def tallies(self, camera: str) -> dict[str, list[int]]:
        """By name: objects in each zone now, ``[n]``, and crossings of each line, ``[in, out]``."""
        with self._lock:
            return dict(self._tallies.get(camera, {}))

    def reset_tallies(self, camera: str) -> None:
        """Forgets these: the camera's zones and lines are others now."""
        with self._lock:
            self._tallies.pop(camera, None)

    def keep_only(self, cameras: Collection[str]) -> None:
        """Forgets frames and counts of all other cameras (they were removed)."""
        with self._lock:
            for camera in [c for c in self._slots if c not in cameras]:
                del self._slots[camera]
                self._counting.pop(camera, None)
                self._tallies.pop(camera, None)

    def _take_event(self, camera: str, moment: float, entry: dict[str, Any]) -> None:
        tallies = self._tallies.setdefault(camera, {})
        kind, zone, line = entry.get("kind"), entry.get("zone"), entry.get("line")
        if len(tallies) >= TALLIES:
            tallies.clear()
        if kind == "count" and zone is not None:
            # Every one who comes or goes changes it: a figure, not an event for the list.
            tallies[zone] = [entry["count"]]
            return
        if kind == "cross" and line is not None:
            tallies[line] = [entry["total_in"], entry["total_out"]]
        self._note(camera, moment, entry)

    def _note(self, camera: str, moment: float, entry: dict[str, Any]) -> None:
        self._serial += 1
        self._events.append({**entry, "id": self._serial, "camera": camera, "time": moment})

    def _count(self, camera: str, found: dict[str, int]) -> None:
        counting = self._counting.setdefault(camera, _Counting())
        bucket = int(self._clock() / BUCKET)
        if bucket != counting.bucket:
            if counting.frames:
                most = sorted(counting.objects.items(), key=lambda item: -item[1])[:CLASSES]
                self._serial += 1
                counting.points.append(
                    {
                        "id": self._serial,
                        "camera": camera,
                        "time": counting.bucket * BUCKET,
                        "counts": {name: round(n / counting.frames, 3) for name, n in most},
                    }
                )
            counting.bucket, counting.frames, counting.objects = bucket, 0, {}
        counting.frames += 1
        for name, number in found.items():
            counting.objects[name] = counting.objects.get(name, 0) + number


def _newer(entries: deque[dict[str, Any]], serial: int) -> list[dict[str, Any]]:
    newer = []
    for entry in reversed(entries):
        if entry["id"] <= serial:
            break
        newer.append(entry)
    return newer[::-1]


def _as_dict(event: object) -> dict[str, Any]:
    """An event of zones and lines; ``to_json`` may give a dict or a line of JSON."""
    to_json = getattr(event, "to_json", None)
    value = to_json() if to_json is not None else {"kind": type(event).__name__}
    if isinstance(value, str):
        value = json.loads(value)
    return value if isinstance(value, dict) else {"kind": str(value)}
