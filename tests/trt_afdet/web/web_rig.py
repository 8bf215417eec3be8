"""A real pipeline over test patterns behind a real server, for the tests of the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.trt_afdet.stream.detectors import FunctionDetector
from tests.waiting import wait_until as wait_for
from trt_afdet.detections import Detections
from trt_afdet.stream.analysis.zones import LineCrossed, ObjectEntered, ZoneCount
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sources.base import Picture, SourceError, SourceInfo
from trt_afdet.stream.sources.test_pattern import TestPatternSource, boxes_at
from trt_afdet.web.server import WebServer

CLASSES = ("person", "car", "dog")


def detections(boxes: Sequence[Sequence[float]] = ((8, 8, 40, 40),)) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32),
        np.linspace(0.9, 0.6, count).astype(np.float32),
        (np.arange(count) % len(CLASSES)).astype(np.int32),
        CLASSES,
    )


def result(
    source: str = "cam",
    sequence: int = 0,
    *,
    found: Detections | None = None,
    events: tuple[object, ...] = (),
    size: tuple[int, int] = (64, 96),
) -> StreamResult:
    image = np.full((*size, 3), 90, np.uint8)
    now = time.monotonic()
    frame = StreamFrame(source, sequence, image, now, time.time())
    found = detections() if found is None else found
    return StreamResult(frame, found, True, now, events)


class TrueBoxes:
    """The analysis that replaces whatever was found by the pattern's true boxes."""

    def __init__(self, source: TestPatternSource, every: int = 0) -> None:
        self._pattern = source.pattern
        self._every = every

    def wants_detector(self, frame: StreamFrame) -> bool:
        return True

    def apply(
        self, frame: StreamFrame, found: Detections | None
    ) -> tuple[Detections, tuple[object, ...]]:
        events: tuple[object, ...] = ()
        if self._every and frame.sequence % self._every == 1:
            events = (
                ObjectEntered(frame.source, frame.wall_time, "door", 7, "person"),
                LineCrossed(frame.source, frame.wall_time, "gate", 7, "person", "in", 3, 1),
                ZoneCount(frame.source, frame.wall_time, "door", 2, {"person": 2}, 5),
            )
        return detections(boxes_at(self._pattern, frame.sequence).tolist()), events


@FunctionDetector
def no_detector(frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
    return [Detections.empty(CLASSES) for _ in frames]


class Dead:
    """A camera that never answers and whose error names a password."""

    name = "dead"
    live = True

    def open(self) -> SourceInfo:
        raise SourceError("no answer from rtsp://admin:hunter2@10.1.2.3/h264?password=swordfish")

    def read(self) -> Picture | None:
        return None

    def interrupt(self) -> None:
        """Nothing blocks."""

    def close(self) -> None:
        """Nothing is open."""


def camera(name: str, options: str = "", every: int = 0) -> SourceSpec:
    source = TestPatternSource(f"test://?width=320&height=240&fps=20&objects=3&seed=3&{options}")
    return SourceSpec(name, lambda: source, analysis=TrueBoxes(source, every))


def dead(name: str = "dead") -> SourceSpec:
    return SourceSpec(name, Dead, retry=Retry(first=0.3, longest=0.3))


@contextmanager
def serving(plans: Sequence[SourceSpec] = (), **options: Any) -> Iterator[WebServer]:
    """A server with a pipeline behind it, stopped at the end."""
    options = {"address": "127.0.0.1:0", "announce": lambda line: None, **options}
    server = WebServer(**options)
    if not plans:
        server.start()
        try:
            yield server
        finally:
            server.stop()
        return
    pipeline = Pipeline(no_detector, plans, [server], PipelineOptions(batch=2))
    server.attach(pipeline)
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    try:
        live = [plan.name for plan in plans if not plan.name.startswith("dead")]
        wait_for(lambda: server.running, "the server")
        for name in live:
            wait_for(lambda name=name: server.results.latest(name), f"a frame of {name}")  # type: ignore[misc]
        yield server
    finally:
        pipeline.stop()
        thread.join(60)
        assert not thread.is_alive()
