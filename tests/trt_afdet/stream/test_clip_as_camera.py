"""The shipped clip played as an RTSP camera, through the whole line and in real time: what the
detector sees of it is found as well as in the file."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import trt_afdet
from tests.trt_afdet.stream.peers_rtsp import Mount, RtspServer
from tests.waiting import LIMIT, wait_until
from trt_afdet.datasets import open_dataset
from trt_afdet.detections import Detections
from trt_afdet.evaluation import evaluate_coco
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.config.addresses import make_source, parse_source
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline, SourceSpec
from trt_afdet.stream.retry import Retry

ASSETS = Path(trt_afdet.__file__).parent / "assets"
CLIP = ASSETS / "clip.mp4"
CONNECTING = StatusEvent("clip", "connecting", "", 0.0)


class Kept:
    """A sink that keeps what it gets."""

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


def name_of(image: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def play(uri: str, detector: Detector) -> Kept:
    """Runs a source until nothing more comes."""
    spec = parse_source(uri)
    sink = Kept()
    once = Retry(first=60.0, longest=60.0)  # The server would begin again.
    plan = SourceSpec("clip", lambda: make_source(spec, "clip"), live=spec.live, retry=once)
    pipeline = Pipeline(detector, [plan], [sink])
    thread = threading.Thread(target=pipeline.run)
    thread.start()

    def is_over() -> bool:
        """A camera is lost at its end; what was received has come out or is counted."""
        figures = pipeline.snapshot()
        if pipeline.board.latest().get("clip", CONNECTING).state != "lost":
            return False
        queue = figures.queues["clip"]
        return len(sink.results) + queue.dropped + queue.stale == queue.received

    wait_until(lambda: not thread.is_alive() or is_over(), "the end of the clip", 4 * LIMIT)
    pipeline.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()
    return sink


def ap50(found: dict[int, Detections], frames: Sequence[int]) -> float:
    """AP50 of the clip's truth over some of its frames."""
    truth = open_dataset(ASSETS / "clip.json")
    records = [truth.records[i] for i in frames]
    part = dataclasses.replace(truth, records=tuple(records))
    return float(evaluate_coco(part, [found[i] for i in frames]).ap50)


@pytest.mark.slow
def test_a_camera_is_seen_as_well_as_the_file() -> None:
    with (
        RtspServer({"clip": Mount(file=str(CLIP), loop=False)}) as server,
        Detector.load(ASSETS / "model.onnx", conf=0.01) as detector,
    ):
        file = play(str(CLIP), detector)
        number = {name_of(r.frame.image): i for i, r in enumerate(file.results)}
        assert len(number) == len(file.results) == 200
        from_file = {i: r.detections for i, r in enumerate(file.results)}
        camera = play(server.url("clip"), detector)

    # Sent as it is and decoded by the same decoder: each frame is one of the file's.
    seen = {number[name_of(r.frame.image)]: r.detections for r in camera.results}
    frames = sorted(seen)
    assert len(frames) == len(camera.results)
    # To the end, at the camera's pace: a busy machine leaves out more frames in between.
    assert frames[-1] > 180
    for i in frames:
        np.testing.assert_array_equal(seen[i].xyxy, from_file[i].xyxy)
    assert ap50(seen, frames) == ap50(from_file, frames)
    assert ap50(from_file, range(200)) > 0.4
