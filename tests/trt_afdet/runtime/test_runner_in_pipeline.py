"""Streams on an engine: two batches under way, and every frame still gets its own boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.trt_afdet.onnx_models import SPEC, save_model
from tests.trt_afdet.runtime.rigs import equal, scene
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec
from trt_afdet.stream.sources.base import Picture, SourceInfo

FRAMES = 12


class Scenes:
    """A file of scenes of the network's size that differ everywhere."""

    name = "scenes"
    live = False

    def __init__(self, first: int) -> None:
        self._seeds = iter(range(first, first + FRAMES))

    def open(self) -> SourceInfo:
        return SourceInfo(0, 0, None, "scenes")

    def read(self) -> Picture | None:
        seed = next(self._seeds, None)
        return None if seed is None else Picture(scene(seed, SPEC.height, SPEC.width))

    def interrupt(self) -> None:
        """Never blocks."""

    def close(self) -> None:
        """Nothing is held open."""


class Kept:
    name = "kept"
    durable = True

    def __init__(self) -> None:
        self.results: list[StreamResult] = []

    def open(self) -> None:
        """Nothing to open."""

    def write(self, result: StreamResult) -> None:
        self.results.append(result)

    def status(self, event: StatusEvent) -> None:
        """Not wanted."""

    def close(self) -> None:
        """Nothing is held open."""


class Counting(Detector):
    """Counts the batches under way."""

    under_way = 0
    most_under_way = 0

    def submit(self, frames: Any) -> Any:
        ticket = super().submit(frames)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return ticket

    def collect(self, ticket: Any) -> Any:
        self.under_way -= 1
        return super().collect(ticket)


@pytest.mark.parametrize("streams", [1, 3])
def test_every_frame_gets_its_own_boxes(rig: Any, tmp_path: Any, streams: int) -> None:
    detector = Counting(rig.runner())
    assert detector.is_async
    assert detector.max_batch == 4
    plans = [SourceSpec(f"s{i}", lambda i=i: Scenes(100 * i), live=False) for i in range(streams)]
    sink = Kept()
    Pipeline(detector, plans, [sink], PipelineOptions(batch=16)).run()
    assert detector.under_way == 0
    assert detector.most_under_way == 2
    with Detector.load(save_model(tmp_path / "model.onnx")) as canonical:
        want: dict[bytes, Any] = {}
        for index in range(streams):
            for seed in range(100 * index, 100 * index + FRAMES):
                image: npt.NDArray[np.uint8] = scene(seed, SPEC.height, SPEC.width)
                want[image.tobytes()] = canonical(image)
    assert len(sink.results) == streams * FRAMES
    for result in sink.results:
        equal(result.detections, want[result.frame.image.tobytes()])
