"""Turns a pipeline's figures into the JSON that the page shows."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

from trt_afdet.stream.monitoring.health import Health
from trt_afdet.stream.monitoring.public_names import key
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot, QueueCount
from trt_afdet.support.redact import redact
from trt_afdet.web.results import ResultStore


def state_of(
    snapshot: PipelineSnapshot, health: Health, results: ResultStore, viewers: int
) -> dict[str, Any]:
    """A JSON-able dict; seconds, and null for what is not known yet."""
    sizes = results.sizes()
    return {
        "type": "state",
        "time": round(time.time(), 3),
        "uptime": round(snapshot.uptime, 1),
        "health": {"status": health.status, "reasons": list(health.reasons)},
        "viewers": viewers,
        "colors": results.colors(),
        "cameras": [_camera(snapshot, name, results, sizes) for name in snapshot.states],
        "sinks": [
            {"name": redact(name), **count._asdict()} for name, count in snapshot.sinks.items()
        ],
    }


def _camera(
    snapshot: PipelineSnapshot, name: str, results: ResultStore, sizes: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    event = snapshot.states[name]
    public = results.names.of(name)
    figures = snapshot.sources.get(name)
    camera: dict[str, Any] = {
        "name": public,
        "key": key(public),
        "state": event.state,
        "detail": redact(event.detail),
        "since": round(event.wall_time, 3),
        "size": sizes.get(public),
        "tallies": results.tallies(public),
        "reconnects": snapshot.reconnects.get(name, 0),
        **asdict(snapshot.queues.get(name, QueueCount(0, 0, 0, 0))),
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
