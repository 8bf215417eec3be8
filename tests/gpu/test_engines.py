"""Real engines of the shipped detector, where TensorRT and a GPU are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.gpu.gpu_rig import why_not
from tests.skips import skip_test
from tests.trt_afdet.runtime.rigs import near, shipped
from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.cli import main
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.runner import Runner

pytestmark = pytest.mark.gpu

#: What may differ from ONNX Runtime, in score and IoU.
TOLERANCE = {"fp32": (0.02, 0.9), "fp16": (0.03, 0.85)}


@pytest.fixture(scope="module", params=[("fp32", "none"), ("fp16", "none"), ("fp16", "plugin")])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """An engine and its precision."""
    if why_not():
        skip_test(why_not(), "make gpu-check")
    if importlib.util.find_spec("tensorrt") is None:
        skip_test("TensorRT is not installed", "pip install tensorrt")
    precision, nms = request.param
    path = tmp_path_factory.mktemp("engine") / "model.engine"
    options = ("--precision", precision, "--nms", nms, "--batch", "1,4,8")
    assert main(["build-engine", str(SHIPPED_MODEL), "-o", str(path), *options]) == 0
    return path, precision


@pytest.mark.slow
def test_it_finds_what_onnx_runtime_finds(engine: tuple[Path, str]) -> None:
    path, precision = engine
    score, iou = TOLERANCE[precision]
    _, _, frames = shipped()
    frames = frames + [np.asarray(cv2.resize(f, (1920, 1080)), np.uint8) for f in frames[:3]]
    with Detector.load(path) as detector, Detector.load(SHIPPED_MODEL) as reference:
        want = reference(frames)
        for _ in range(3):  # Plain first, then captured.
            for got, right in zip(detector(frames), want, strict=True):
                near(got, right, score, iou)
        for got, right in zip([detector(frame) for frame in frames], want, strict=True):
            near(got, right, score, iou)
        assert isinstance(detector.backend, Runner)
        program = detector.backend._program
        assert program is not None
        assert {batch for _, batch in program._graphs} <= {1, len(frames) % 8, 8}
        assert program._graphs


@pytest.mark.slow
def test_overlapping_batches_equal_single_ones(engine: tuple[Path, str]) -> None:
    path, _ = engine
    _, _, frames = shipped()
    with Detector.load(path) as detector:
        want = [detector(frames[i : i + 2]) for i in range(0, 6, 2)]
        tickets = [detector.submit(frames[i : i + 2]) for i in range(0, 6, 2)]
        for ticket, right in zip(tickets, want, strict=True):
            for got, one in zip(detector.collect(ticket), right, strict=True):
                # The same engine on the same frames: bit for bit.
                assert np.array_equal(got.xyxy, one.xyxy)
                assert np.array_equal(got.confidence, one.confidence)
