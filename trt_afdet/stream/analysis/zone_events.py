"""Events of zones and lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


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
    """An object left a zone after so many seconds.

    ``reason``: "moved"; "lost" (not seen for the grace time); "zone gone" (removed or changed).
    """

    kind: ClassVar[str] = "leave"
    seconds: float
    reason: str = "moved"


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
