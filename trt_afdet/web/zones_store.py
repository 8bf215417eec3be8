"""Zones and lines of all sources, in one JSON file.

``{"camera": {"zones": [{"name": "door", "polygon": [[x, y], ...]}],
"lines": [{"name": "gate", "points": [[x1, y1], [x2, y2]]}]}}``, coordinates as shares of the
picture's width and height, 0 to 1, so that they hold for every resolution.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trt_afdet.errors import CorruptFileError, InvalidValueError
from trt_afdet.files import write_text
from trt_afdet.stream.filters import Point
from trt_afdet.stream.zones import parse_shapes
from trt_afdet.text import read_text

#: Most zones, and most lines, of one source.
MOST_SHAPES = 64
#: Most corners of one zone.
MOST_CORNERS = 128
LONGEST_NAME = 64
#: A shorter one is a slip of the finger; share of the picture.
SHORTEST_LINE = 0.005

Zones = dict[str, list[dict[str, Any]]]


def no_zones() -> Zones:
    """What a source without zones and lines has."""
    return {"zones": [], "lines": []}


def check_zones(value: object) -> Zones:
    """Zones and lines of one source as they are stored.

    Args:
        value: What a user sent: the dict described in the module; either list may be missing.

    Returns:
        The same with both lists, names stripped, coordinates with 5 decimals.

    Raises:
        InvalidValueError: If anything in it is not as it must be; the text names the zone.
    """
    try:
        shapes = parse_shapes(value)
    except OverflowError as error:
        raise InvalidValueError("coordinates must be 0 to 1", got="an enormous one") from error
    if max(len(shapes.zones), len(shapes.lines)) > MOST_SHAPES:
        raise InvalidValueError(f"a source has at most {MOST_SHAPES} zones and {MOST_SHAPES} lines")
    zones = [{"name": z.name, "polygon": _rounded(z.name, z.polygon)} for z in shapes.zones]
    lines = [
        {"name": line.name, "points": _rounded(line.name, line.points)} for line in shapes.lines
    ]
    for zone in shapes.zones:
        _check_sides(zone.name, zone.polygon)
    for line in shapes.lines:
        if math.dist(*line.points) < SHORTEST_LINE:
            raise InvalidValueError(f"line {line.name} is too short")
    return {"zones": zones, "lines": lines}


class ZonesStore:
    """The zones of all sources, kept in a file. Thread-safe.

    Args:
        path: JSON file, made when something is first saved; None keeps them in memory only.
        on_zones: Called after a change with the source and its zones, from the thread that made it.

    Raises:
        CorruptFileError: If the file exists and is not what it must be.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        on_zones: Callable[[str, Zones], None] | None = None,
    ) -> None:
        self.path = Path(path) if path is not None else None
        self.on_zones = on_zones
        #: Grows by one with every change.
        self.revision = 0
        self._lock = threading.Lock()
        self._zones = self._read()

    def get(self, source: str) -> Zones:
        """A source's zones and lines; empty lists if it has none."""
        with self._lock:
            return self._zones.get(source) or no_zones()

    def all(self) -> dict[str, Zones]:
        """Of every source that has any."""
        with self._lock:
            return dict(self._zones)

    def put(self, source: str, value: object) -> Zones:
        """Replaces a source's zones and lines: checked, written, then told to ``on_zones``.

        Returns:
            What was stored.

        Raises:
            InvalidValueError: See :func:`check_zones`; nothing was changed.
            WriteError: If the file cannot be written; nothing was changed.
        """
        zones = check_zones(value)
        with self._lock:
            changed = {**self._zones, source: zones}
            if zones == no_zones():
                del changed[source]
            if self.path is not None:
                write_text(self.path, json.dumps(changed, ensure_ascii=False, indent=1) + "\n")
            self._zones = changed
            self.revision += 1
        if self.on_zones is not None:
            self.on_zones(source, zones)
        return zones

    def reload(self) -> None:
        """Reads the file again and tells ``on_zones`` of every source that is different now.

        Raises:
            CorruptFileError: If the file is not what it must be; nothing was changed.
        """
        with self._lock:
            before, self._zones = self._zones, self._read()
            now = self._zones
            different = [s for s in {**before, **now} if before.get(s) != now.get(s)]
            self.revision += bool(different)
        if self.on_zones is not None:
            for source in different:
                self.on_zones(source, now.get(source) or no_zones())

    def _read(self) -> dict[str, Zones]:
        if self.path is None:
            return {}
        try:
            text = read_text(self.path)
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptFileError("cannot read the zones", got=f"{self.path}: {error}") from error
        try:
            table = json.loads(text)
            if not isinstance(table, dict):
                raise InvalidValueError("it must hold an object with one entry per source")
            return {source: check_zones(value) for source, value in table.items()}
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(
                "this is no zones file", got=f"{self.path}: {error}", hint="mend or remove it"
            ) from error


def _rounded(name: str, points: Sequence[Point]) -> list[list[float]]:
    if len(name) > LONGEST_NAME:
        raise InvalidValueError(
            f"a name has at most {LONGEST_NAME} characters", got=name[:20] + "..."
        )
    if len(points) > MOST_CORNERS:
        raise InvalidValueError(f"zone {name} has more than {MOST_CORNERS} corners")
    if not all(0 <= v <= 1 for point in points for v in point):
        raise InvalidValueError(
            f"coordinates of {name} must be 0 to 1", hint="shares of the picture's width and height"
        )
    return [[round(x, 5), round(y, 5)] for x, y in points]


def _check_sides(name: str, corners: Sequence[Point]) -> None:
    """A polygon whose sides cross has no inside that two people would agree on."""
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    for i, first in enumerate(sides):
        # Neighbouring sides share a corner; the first and the last are neighbours too.
        for second in sides[i + 2 : len(sides) - (i == 0)]:
            if _cross(*first, *second):
                raise InvalidValueError(f"the sides of zone {name} cross each other")


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
