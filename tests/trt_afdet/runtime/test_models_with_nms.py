"""Networks that end in NMS: the same detections as the canonical file, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests.trt_afdet.onnx_models import SPEC, build_model, save_model
from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.detections import Detections
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.errors import InvalidValueError
from trt_afdet.geometry import Letterbox
from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.postprocess import from_outputs
from trt_afdet.runtime.backend import Backend
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

Frame = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module", params=[False, True], ids=["operator", "loop"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nms") / "model-nms.onnx"
    return save_model(path, add_nms(build_model(), "onnx", loop=request.param))


def scene(seed: int = 0, height: int = 300, width: int = 400) -> Frame:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((height // 6, width // 8, 1), np.uint8))


def assert_same(got: Detections, want: Detections) -> None:
    assert len(got) == len(want) > 0
    assert got.class_id.tolist() == want.class_id.tolist()
    np.testing.assert_allclose(got.xyxy, want.xyxy, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got.confidence, want.confidence, rtol=1e-5)
    assert got.class_names == want.class_names


def test_backend_gives_detections_in_order(finished: Path) -> None:
    with OnnxRuntimeBackend(finished) as backend:
        assert isinstance(backend, Backend)
        assert backend.has_nms
        assert (backend.spec, backend.batch_size) == (SPEC, None)
        outputs = backend.infer(np.zeros((2, 3, 256, 384), np.float32))
    assert [o.shape for o in outputs] == [(2, 1), (2, 100, 4), (2, 100), (2, 100)]


@pytest.mark.parametrize(
    "options", [{}, {"conf": 0.9}, {"max_detections": 7}, {"conf": 0.05, "iou": 0.5}]
)
def test_equals_the_canonical_file(
    canonical: Path, finished: Path, options: dict[str, Any]
) -> None:
    """A higher threshold and a lower maximum cut a ranked list, so the result is exact."""
    frames = [scene(1), scene(2, 120, 240), scene(3, 600, 160)]
    want = Detector.load(canonical, **options)
    got = Detector.load(finished, **options)
    for ours, theirs in zip(got(frames), want(frames), strict=True):
        assert_same(ours, theirs)
    assert_same(got(frames[0]), want(frames[0]))


def test_classes_are_left_out_afterwards(tmp_path: Path) -> None:
    model = add_nms(build_model(SPEC.replace(max_detections=3000)), "onnx")
    path = save_model(tmp_path / "model.onnx", model)
    everything = Detector.load(path)(scene())
    some = Detector.load(path, classes=["imp", 2])(scene())
    assert set(everything.class_id.tolist()) == {0, 1, 2}
    assert_same(some, everything[np.isin(everything.class_id, [0, 2])])


def test_a_file_of_fixed_batch(tmp_path: Path, canonical: Path) -> None:
    model = add_nms(build_model(batch=2), "onnx")
    detector = Detector.load(save_model(tmp_path / "fixed.onnx", model))
    frames = [scene(i) for i in range(3)]
    for got, want in zip(detector(frames), Detector.load(canonical)(frames), strict=True):
        assert_same(got, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": 0.01}, r"score threshold 0.05 cannot be lowered \(got 0.01\)"),
        ({"iou": 0.6}, r"NMS IoU 0.5 cannot be changed \(got 0.6\)"),
        ({"iou": 0.4}, r"NMS IoU 0.5 cannot be changed \(got 0.4\)"),
        ({"max_detections": 101}, r"maximum of detections 100 cannot be raised \(got 101\)"),
    ],
)
def test_what_is_built_in_cannot_be_asked_for(
    finished: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message) as caught:
        Detector.load(finished, **options)
    assert "the model without NMS takes any" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_plugin_form_is_not_for_onnx_runtime(tmp_path: Path) -> None:
    path = save_model(tmp_path / "plugin.onnx", add_nms(build_model(), "plugin"))
    with pytest.raises(InvalidValueError, match="plugin AfdetDecodeNMS, which ONNX Runtime"):
        Detector.load(path)


def test_files_that_contradict_themselves(tmp_path: Path) -> None:
    model = add_nms(build_model(), "onnx")
    del model.graph.output[1]
    with pytest.raises(InvalidValueError, match="output 'detection_boxes' of the spec is missing"):
        Detector.load(save_model(tmp_path / "missing.onnx", model))
    model = add_nms(build_model(), "onnx")
    smaller = SPEC.replace(max_detections=50).to_json()
    model.metadata_props[0].value = smaller
    with pytest.raises(InvalidValueError, match=r"'detection_boxes' does not fit.*\[N, 50, 4\]"):
        Detector.load(save_model(tmp_path / "edited.onnx", model))


@pytest.mark.parametrize("loop", [False, True], ids=["operator", "loop"])
def test_the_shipped_model_on_the_shipped_clip(tmp_path: Path, loop: bool) -> None:
    clip = cv2.VideoCapture(str(SHIPPED_MODEL.with_name("clip.mp4")))
    frames = [np.asarray(clip.read()[1], np.uint8) for _ in range(40)][::13]
    clip.release()
    model = add_nms(onnx.load(SHIPPED_MODEL), "onnx", loop=loop)
    got = Detector.load(save_model(tmp_path / "shipped-nms.onnx", model))(frames)
    want = Detector.load(SHIPPED_MODEL)(frames)
    for ours, theirs in zip(got, want, strict=True):
        assert_same(ours, theirs)


def outputs(batch: int = 1, most: int = 3) -> list[npt.NDArray[Any]]:
    """Boxes of 10 px, one beside the other, of falling confidence."""
    left = np.arange(most, dtype=np.float32) * 10
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], 1)
    scores = np.linspace(0.9, 0.3, most, dtype=np.float32)
    parts = (np.int32([most]), boxes, scores, np.arange(most, dtype=np.int32) % 3)
    return [np.stack([part] * batch) for part in parts]


def test_from_outputs_reads_as_many_rows_as_are_counted() -> None:
    arrays = outputs(3)
    arrays[0][:, 0] = [2, 0, 3]
    assert [len(found) for found in from_outputs(arrays, SPEC)] == [2, 0, 3]
    assert from_outputs([a[:0] for a in arrays], SPEC) == []
    found = from_outputs(arrays, SPEC)[0]
    assert found.xyxy.tolist() == [[0, 0, 10, 10], [10, 0, 20, 10]]
    assert found.class_id.tolist() == [0, 1]


def test_from_outputs_cuts() -> None:
    threshold = float(np.float32(0.6))  # As the second box has it: only higher ones are left.
    assert from_outputs(outputs(), SPEC, above=threshold)[0].class_id.tolist() == [0]
    assert from_outputs(outputs(), SPEC, classes=[2, 1])[0].class_id.tolist() == [1, 2]
    few = SPEC.replace(max_detections=1)
    assert from_outputs(outputs(), few, classes=[1, 2])[0].class_id.tolist() == [1]
    placement = Letterbox.fit(100, 50, 100, 100)  # 50 px wide in the middle: x 25..75.
    found = from_outputs(outputs(), SPEC, [placement])[0]
    assert found.xyxy.tolist() == [[0, 0, 5, 10]]


@pytest.mark.parametrize("index", range(len(DETECTION_NAMES)))
def test_from_outputs_that_do_not_fit(index: int) -> None:
    arrays = outputs()
    arrays[index] = arrays[index][..., :-1]
    with pytest.raises(InvalidValueError, match=r"must be \[N, 1\], \[N, M, 4\]"):
        from_outputs(arrays, SPEC)
    with pytest.raises(InvalidValueError, match=r"must be \[N, 1\], \[N, M, 4\]"):
        from_outputs(outputs()[:index], SPEC)
    for count in (-1, 4):
        arrays = outputs()
        arrays[0][:] = count
        with pytest.raises(InvalidValueError, match=r"within 0\.\.3"):
            from_outputs(arrays, SPEC)
