"""A pipeline's figures at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from trt_afdet.stream.monitoring.status import StatusEvent


@dataclass(frozen=True)
class SourceSnapshot:
    """One source's figures at a moment.

    Attributes:
        processed: Frames that reached the sinks.
        detected: Of these, frames that the detector saw (the others were tracked only).
        objects: Detections per class name.
        fps: Frames per second over the last seconds.
        latency_p50, latency_p99, latency_max: Capture to sink, seconds.
    """

    processed: int
    detected: int
    objects: dict[str, int]
    fps: float
    latency_p50: float
    latency_p99: float
    latency_max: float


@dataclass(frozen=True)
class QueueCount:
    """What became of a source's frames so far.

    Attributes:
        received: Frames offered by the source.
        dropped: Of these, dropped because the queue was full.
        stale: Of these, dropped because they had waited longer than the age limit.
        waiting: Frames in the queue now.
    """

    received: int
    dropped: int
    stale: int
    waiting: int


class SinkCount(NamedTuple):
    """Results that a sink has written and dropped, and those in its queue."""

    written: int
    dropped: int
    waiting: int


@dataclass(frozen=True)
class PipelineSnapshot:
    """All figures at a moment, by source or sink name.

    Attributes:
        sources: Figures of each source.
        queues: What waits for the detector.
        states: The latest state of each source.
        sinks: What became of results.
        reconnects: How often each source was lost.
        uptime: Seconds since the pipeline began.
    """

    sources: dict[str, SourceSnapshot]
    queues: dict[str, QueueCount]
    states: dict[str, StatusEvent]
    sinks: dict[str, SinkCount]
    reconnects: dict[str, int]
    uptime: float
