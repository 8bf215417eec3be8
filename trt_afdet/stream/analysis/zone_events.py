"""Events of zones and lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class _Event:
    """What all events have in common.

    Attributes:
        source: The camera.
        wall_time: When, in seconds since 1970.
    """

    kind: ClassVar[str] = ""

    source: str
    wall_time: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict: ``kind`` and the fields; seconds carry 3 decimals."""
        fields = {"class" if k == "class_name" else k: v for k, v in vars(self).items()}
        return {"kind": self.kind} | {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in fields.items()
            if value is not None
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
    """An object left a zone.

    Attributes:
        seconds: How long it was there.
        reason: "moved"; "lost": it was not seen for the grace time; "zone gone": the zone was
            removed or changed.
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
    """An object has crossed a line.

    Attributes:
        direction: "in" or "out".
        total_in, total_out: Crossings so far, this one included.
    """

    kind: ClassVar[str] = "cross"

    line: str
    track_id: int
    class_name: str
    direction: str
    total_in: int
    total_out: int


@dataclass(frozen=True)
class ZoneCount(_Event):
    """The number of objects in a zone has changed.

    Attributes:
        count: Objects in it now.
        classes: The same by class name.
        entered: Objects that have entered it so far.
    """

    kind: ClassVar[str] = "count"

    zone: str
    count: int
    classes: Mapping[str, int]
    entered: int

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"classes": dict(self.classes)}


ZoneEvent = ObjectEntered | ObjectLeft | ObjectDwelled | LineCrossed | ZoneCount
