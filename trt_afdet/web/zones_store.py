"""Zones and lines of all sources, in one JSON file; ``stream/zones.py`` says what may be in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trt_afdet.errors import MissingFileError
from trt_afdet.stream.analysis.zones import Shapes, parse_shapes, read_zones
from trt_afdet.support.files import write_text

Zones = dict[str, list[dict[str, Any]]]


def no_zones() -> Zones:
    """What a source without zones and lines has."""
    return Shapes().to_dict()


def in_pixels(zones: Zones) -> bool:
    """Whether any shape is in pixels."""
    return any("units" in shape for shapes in zones.values() for shape in shapes)


def check_zones(value: object) -> Zones:
    """Zones and lines of one source as they are stored.

    Args:
        value: What a user sent; see :func:`trt_afdet.stream.analysis.zones.parse_shapes`.

    Returns:
        The same with both lists, names stripped, shapes in pixels marked as such; numbers are kept
        as they are.

    Raises:
        InvalidValueError: If anything in it is not as it must be; the text names the zone.
    """
    return parse_shapes(value).to_dict()


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

    def in_shares(self, source: str, size: tuple[int, int] | None) -> Zones:
        """A source's zones and lines for the page, which draws shares.

        Args:
            source: Its name.
            size: Width and height of its pictures; None: not known yet, shapes in pixels stay so.
        """
        zones = self.get(source)
        if size is None or not in_pixels(zones):
            return zones
        return parse_shapes(zones).in_shares(*size).to_dict()

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
        for source, zones in self._adopt(self._read()).items():
            if self.on_zones is not None:
                self.on_zones(source, zones)

    def adopt(self, path: Path | str | None, shapes: Mapping[str, Shapes]) -> None:
        """Takes over the zones of all sources from a reload; tells nobody, writes nothing.

        Args:
            path: The file from now on.
            shapes: Of every source that has any.
        """
        self.path = Path(path) if path is not None else None
        self._adopt({source: value.to_dict() for source, value in shapes.items() if value})

    def _adopt(self, now: dict[str, Zones]) -> dict[str, Zones]:
        """Replaces everything; what is different now, by source."""
        with self._lock:
            before, self._zones = self._zones, now
            different = [s for s in {**before, **now} if before.get(s) != now.get(s)]
            self.revision += bool(different)
        return {source: now.get(source) or no_zones() for source in different}

    def _read(self) -> dict[str, Zones]:
        if self.path is None:
            return {}
        try:
            return {source: shapes.to_dict() for source, shapes in read_zones(self.path).items()}
        except MissingFileError:
            return {}
