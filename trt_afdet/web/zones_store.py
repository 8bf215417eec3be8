"""Keeps the zones and lines of all sources in one JSON file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trt_afdet.errors import MissingFileError
from trt_afdet.stream.analysis.shapes import Shapes, parse_shapes, read_zones
from trt_afdet.support.files import write_text

#: Zones and lines of a source as JSON, see :func:`trt_afdet.stream.analysis.shapes.parse_shapes`.
ShapesJson = dict[str, list[dict[str, Any]]]


class ZonesStore:
    """The zones of all sources. Thread-safe.

    Args:
        path: JSON file, made when something is first saved; None keeps them in memory only.
        on_zones: Called after a change with the source and its zones, from the thread that made it.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        on_zones: Callable[[str, ShapesJson], None] | None = None,
    ) -> None:
        self.path = Path(path) if path is not None else None
        self.on_zones = on_zones
        self.revision = 0  # Grows by one with every change.
        self._lock = threading.Lock()
        self._shapes: dict[str, Shapes] = {}
        if self.path is not None:
            with suppress(MissingFileError):
                self._shapes = read_zones(self.path)

    def get(self, source: str) -> ShapesJson:
        """A source's zones and lines; empty lists if it has none."""
        return self.in_shares(source, None)

    def in_shares(self, source: str, size: tuple[int, int] | None) -> ShapesJson:
        """A source's zones and lines as shares of pictures of this size, if that is known."""
        shapes = self._shapes.get(source, Shapes())
        return (shapes if size is None else shapes.in_shares(*size)).to_dict()

    def all(self) -> dict[str, ShapesJson]:
        """Of every source that has any."""
        return {source: shapes.to_dict() for source, shapes in self._shapes.items()}

    def put(self, source: str, value: object) -> ShapesJson:
        """Replaces a source's zones and lines: checked, written, then told to ``on_zones``.

        Returns what was stored: names stripped, shapes in pixels marked as such, numbers as given.
        After InvalidValueError or WriteError nothing has changed.
        """
        shapes = parse_shapes(value)
        with self._lock:
            changed = {s: v for s, v in {**self._shapes, source: shapes}.items() if v}
            if self.path is not None:
                table = {source: shapes.to_dict() for source, shapes in changed.items()}
                write_text(self.path, json.dumps(table, ensure_ascii=False, indent=1) + "\n")
            self._shapes = changed
            self.revision += 1
        if self.on_zones is not None:
            self.on_zones(source, shapes.to_dict())
        return shapes.to_dict()

    def adopt(self, path: Path | str | None, shapes: Mapping[str, Shapes]) -> None:
        """Takes over the zones of all sources and their file from a reload; writes nothing."""
        self.path = Path(path) if path is not None else None
        now = {source: value for source, value in shapes.items() if value}
        with self._lock:
            self.revision += self._shapes != now
            self._shapes = now
