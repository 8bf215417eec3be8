"""Keeps what the page shows: newest frames, recent events, and objects counted over time.

The pipeline's threads write, the server's thread reads. Memory is bounded, and adding a frame costs
the same however many browsers watch.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

import cv2
import numpy as np

from trt_afdet.draw import class_color
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.sinks.mjpeg import encode_jpeg
from trt_afdet.support.files import TEXT_ERRORS
from trt_afdet.support.redact import redact

BUCKET = 2.0  # Seconds per point of the charts, and points kept: five minutes.
POINTS = 150
EVENTS = 300  # Events kept.
CLASSES = 12  # Classes per point of a chart; the most frequent ones.
TALLIES = 256  # Most zones and lines of a camera with figures.
COLORS = 1000  # Most classes with a distinct colour.
#: Widths in pixels that pictures are sent in: few, so that browsers share encoded pictures.
WIDTHS = (160, 320, 480, 640, 960, 1280, 1920)
MOST_BOXES = 300  # Most boxes sent with a picture, the best ones.


class LatestResult(NamedTuple):
    """The newest result of a camera."""

    camera: str  # Its public name.
    serial: int  # Grows with every result, over all cameras.
    result: StreamResult

    @property
    def size(self) -> tuple[int, int]:
        tall, wide = self.result.frame.image.shape[:2]
        return wide, tall


class EncodedFrame(NamedTuple):
    """A frame for browsers."""

    serial: int  # Of the result, see LatestResult.
    made: float  # When it was encoded, seconds of the caller's clock.
    data: bytes  # 4 bytes big-endian length of the header, the header (JSON), the JPEG.


@dataclass
class _ObjectCounts:
    """Objects per frame over the last minutes, a point per :data:`BUCKET` seconds."""

    bucket: int = -1
    frames: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    points: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=POINTS))


class ResultStore:
    """See the module. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.names = PublicNames()
        #: Called after every result and event, from the thread that brought it; must be quick.
        self.listener: Callable[[], None] | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._serial = 0
        self._latest: dict[str, LatestResult] = {}
        self._counts: dict[str, _ObjectCounts] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._states: dict[str, str] = {}
        self._tallies: dict[str, dict[str, list[int]]] = {}
        self._colors: dict[str, str] = {}
        self._class_names: tuple[str, ...] = ()

    def add_result(self, result: StreamResult) -> None:
        """Replaces the camera's newest result, counts its objects, keeps its events."""
        camera = self.names.of(result.frame.source)
        with self._lock:
            self._serial += 1
            self._latest[camera] = LatestResult(camera, self._serial, result)
            self._count(camera, Counter(result.detections.names))
            if result.detections.class_names is not self._class_names:
                self._class_names = result.detections.class_names
                for index, name in enumerate(self._class_names[:COLORS]):
                    blue, green, red = class_color(index)
                    self._colors[name] = f"#{red:02x}{green:02x}{blue:02x}"
            for event in result.events:
                self._add_event(camera, result.frame.wall_time, event)
        self._tell()

    def add_status(self, event: StatusEvent) -> None:
        """Keeps a change of a source's state as an event, except ``connecting``."""
        entry = {"kind": "state", "state": event.state, "detail": redact(event.detail)}
        with self._lock:
            # A camera that is tried again for hours must not drive everything else out.
            if event.state == "connecting" or self._states.get(event.source) == event.state:
                return
            self._states[event.source] = event.state
            self._keep_event(self.names.of(event.source), event.wall_time, entry)
        self._tell()

    def latest(self, camera: str) -> LatestResult | None:
        return self._latest.get(camera)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of every camera's newest frame."""
        with self._lock:
            return {camera: latest.size for camera, latest in self._latest.items()}

    def colors(self) -> dict[str, str]:
        """Colour of each class as ``#rrggbb``, the same as in annotated videos."""
        return self._colors.copy()

    def events_after(self, serial: int) -> list[dict[str, Any]]:
        """Events with a higher ``id``, oldest first."""
        with self._lock:
            return _newer(self._events, serial)

    def points_after(self, serial: int) -> list[dict[str, Any]]:
        """Points of the charts with a higher ``id``: camera, time, objects per frame by class."""
        with self._lock:
            points = [p for c in self._counts.values() for p in _newer(c.points, serial)]
        return sorted(points, key=lambda point: point["id"])

    def tallies(self, camera: str) -> dict[str, list[int]]:
        """By name: objects in each zone now, ``[n]``, and crossings of each line, ``[in, out]``."""
        return self._tallies.get(camera, {}).copy()

    def reset_tallies(self, camera: str) -> None:
        """Forgets the tallies of a camera whose zones and lines have changed."""
        self._tallies.pop(camera, None)

    def keep_only(self, cameras: Collection[str]) -> None:
        """Forgets frames and counts of all other cameras (they were removed)."""
        with self._lock:
            for camera in self._latest.keys() - set(cameras):
                for table in (self._latest, self._counts, self._tallies):
                    table.pop(camera, None)  # type: ignore[attr-defined]

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener()

    def _add_event(self, camera: str, moment: float, event: Any) -> None:
        known = hasattr(event, "to_json")
        entry: dict[str, Any] = event.to_json() if known else {"kind": type(event).__name__}
        tallies = self._tallies.setdefault(camera, {})
        if len(tallies) >= TALLIES:
            tallies.clear()
        if entry["kind"] == "count":
            # It changes with everyone who comes or goes: a figure, not an event for the list.
            tallies[entry["zone"]] = [entry["count"]]
            return
        if entry["kind"] == "cross":
            tallies[entry["line"]] = [entry["total_in"], entry["total_out"]]
        self._keep_event(camera, moment, entry)

    def _keep_event(self, camera: str, moment: float, entry: dict[str, Any]) -> None:
        self._serial += 1
        self._events.append({**entry, "id": self._serial, "camera": camera, "time": moment})

    def _count(self, camera: str, found: Counter[str]) -> None:
        counts = self._counts.setdefault(camera, _ObjectCounts())
        bucket = int(self._clock() / BUCKET)
        if bucket != counts.bucket:
            if counts.frames:
                self._serial += 1
                most = counts.objects.most_common(CLASSES)
                figures = {name: round(n / counts.frames, 3) for name, n in most}
                place = {"id": self._serial, "camera": camera, "time": counts.bucket * BUCKET}
                counts.points.append(place | {"counts": figures})
            counts.bucket, counts.frames, counts.objects = bucket, 0, Counter()
        counts.frames += 1
        counts.objects += found


def _newer(entries: deque[dict[str, Any]], serial: int) -> list[dict[str, Any]]:
    return list(takewhile(lambda entry: entry["id"] > serial, reversed(entries)))[::-1]


def fitting_width(wanted: int) -> int:
    """The smallest of :data:`WIDTHS` that is at least ``wanted`` pixels, or the largest."""
    return next((width for width in WIDTHS if width >= wanted), WIDTHS[-1])


def reduced_jpeg(latest: LatestResult, width: int, quality: int) -> bytes:
    """The frame as a JPEG, reduced (never enlarged) to the width in pixels."""
    image = latest.result.frame.image
    wide, tall = latest.size
    if wide > width:
        # INTER_AREA takes three times as long, and shows only below a half of the size.
        how = cv2.INTER_LINEAR if wide < 2 * width else cv2.INTER_AREA
        size = (width, max(1, round(tall * width / wide)))
        image = cv2.resize(image, size, interpolation=how)  # type: ignore[assignment]
    return encode_jpeg(image, quality)


def encode_frame(latest: LatestResult, width: int, quality: int, now: float) -> EncodedFrame:
    frame, found = latest.result.frame, latest.result.detections[:MOST_BOXES]
    boxes = np.clip(found.xyxy / np.array(latest.size * 2, np.float32), -1, 2).round(4).tolist()
    rows = zip(boxes, found.names, found.confidence.tolist(), found.tracks, strict=True)
    header = {
        "camera": latest.camera,
        "sequence": frame.sequence,
        "time": round(frame.wall_time, 3),
        "size": latest.size,
        "boxes": [
            {"box": box, "name": name, "confidence": round(confidence, 3)}
            | ({} if track is None else {"track": track})
            for box, name, confidence, track in rows
        ],
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    head = text.encode("utf-8", TEXT_ERRORS)
    data = b"".join((struct.pack(">I", len(head)), head, reduced_jpeg(latest, width, quality)))
    return EncodedFrame(latest.serial, now, data)
