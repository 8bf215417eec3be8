"""Results to write, and waiting for what a sink does with them."""

from __future__ import annotations

import numpy as np

from tests.waiting import wait_until  # noqa: F401
from trt_afdet.detections import Detections
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent

NAMES = ("person", "traffic light")
#: 2026-01-31 23:59:59.25 UTC.
WALL = 1769903999.25


def detections(count: int, tracked: bool = False) -> Detections:
    """``count`` boxes that all differ."""
    corner = np.arange(count, dtype=np.float32)[:, None] * 3
    return Detections(
        np.concatenate([corner, corner, corner + 20.5, corner + 10], axis=1),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(count, dtype=np.int32) % 2,
        NAMES,
        np.arange(count, dtype=np.int64) - 1 if tracked else None,
    )


def result(
    sequence: int = 0,
    source: str = "cam",
    *,
    count: int = 2,
    size: tuple[int, int] = (64, 48),
    fps: float = 30.0,
    position: float | None = None,
    events: tuple[object, ...] = (),
    tracked: bool = False,
) -> StreamResult:
    """Frame number ``sequence`` of a camera with ``fps``; its grey value is its number."""
    image = np.full((size[1], size[0], 3), sequence % 200, np.uint8)
    seconds = sequence / fps
    frame = StreamFrame(source, sequence, image, 1000 + seconds, WALL + seconds, position)
    return StreamResult(frame, detections(count, tracked), True, 1000.02 + seconds, events)


def status(state: str = "live", source: str = "cam", detail: str = "") -> StatusEvent:
    return StatusEvent(source, state, detail, WALL)  # type: ignore[arg-type]
