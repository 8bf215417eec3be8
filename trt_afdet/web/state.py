"""The figures of a pipeline as the page wants them."""

from __future__ import annotations

import math
import time
from typing import Any

from trt_afdet.stream.monitoring.health import Health
from trt_afdet.stream.monitoring.public_names import key
from trt_afdet.stream.pipeline import PipelineSnapshot
from trt_afdet.support.redact import redact
from trt_afdet.web.hub import Hub


def state_of(snapshot: PipelineSnapshot, health: Health, hub: Hub, viewers: int) -> dict[str, Any]:
    """A JSON-able dict; seconds, and null for what is not known yet."""
    sizes = hub.sizes()
    return {
        "type": "state",
        "time": round(time.time(), 3),
        "uptime": round(snapshot.uptime, 1),
        "health": {"status": health.status, "reasons": list(health.reasons)},
        "viewers": viewers,
        "colors": hub.colors(),
        "cameras": [_camera(snapshot, name, hub, sizes) for name in snapshot.states],
        "sinks": [
            {"name": redact(name), "written": written, "dropped": dropped, "waiting": waiting}
            for name, (written, dropped, waiting) in snapshot.sinks.items()
        ],
    }


def _camera(
    snapshot: PipelineSnapshot, name: str, hub: Hub, sizes: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    event = snapshot.states[name]
    public = hub.names.of(name)
    figures = snapshot.sources.get(name)
    lane = snapshot.lanes.get(name)
    camera: dict[str, Any] = {
        "name": public,
        "key": key(public),
        "state": event.state,
        "detail": redact(event.detail),
        "since": round(event.wall_time, 3),
        "size": sizes.get(public),
        "tallies": hub.tallies(public),
        "reconnects": snapshot.reconnects.get(name, 0),
        "received": lane.received if lane else 0,
        "dropped": lane.dropped if lane else 0,
        "stale": lane.stale if lane else 0,
        "waiting": lane.waiting if lane else 0,
    }
    if figures is not None:
        camera |= {
            "processed": figures.processed,
            "fps": round(figures.fps, 2),
            "p50": _number(figures.latency_p50),
            "p99": _number(figures.latency_p99),
            "objects": figures.objects,
        }
    return camera


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
