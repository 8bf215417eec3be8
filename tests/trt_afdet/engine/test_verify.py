"""The gate: what passes it, what does not, and what it writes down."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trt_afdet.engine.networks import SPEC, build_network, save, write_pictures
from trt_afdet.datasets import Dataset, Record
from trt_afdet.detections import Detections
from trt_afdet.engine.compare import average_precision, matched_share
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.engine.precision.fp16 import to_half
from trt_afdet.engine.sample_pictures import Pictures, open_pictures
from trt_afdet.engine.verify import (
    LIMITS,
    Limits,
    VerificationError,
    VerifyResult,
    verify,
)
from trt_afdet.errors import InvalidValueError
from trt_afdet.runtime.backend import HostBackend
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

ANYTHING = Limits(output_error=np.inf, matched=0.0, ap_drop=np.inf)


class Changed(HostBackend):
    """A backend whose outputs go through a function."""

    def __init__(self, path: Path, change: Callable[[list[np.ndarray]], list[np.ndarray]]) -> None:
        self.inner = OnnxRuntimeBackend(path)
        self.spec, self.batch_size = SPEC, self.inner.batch_size
        self.change = change

    def infer(self, images: np.ndarray) -> list[np.ndarray]:
        return self.change([head.copy() for head in self.inner.infer(images)])

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return open_pictures(write_pictures(tmp_path_factory.mktemp("pictures"), 6))


@pytest.fixture(scope="module")
def labelled(pictures: Pictures, model: Path) -> Pictures:
    """What the model finds is the truth, so its AP is near 100."""
    detector = Detector.load(model, conf=0.3)
    records = []
    for index, frame in pictures:
        found = detector(frame)
        sure = found[:8]
        height, width = frame.shape[:2]
        records.append(
            Record.build(pictures.files[index], index + 1, width, height, sure.xyxy, sure.class_id)
        )
    truth = Dataset("truth", SPEC.class_names, tuple(records), (1, 2, 3))
    return Pictures(pictures.source, pictures.files, pictures.frames, truth)


def check(
    model: Path,
    pictures: Pictures,
    change: Callable[[list[np.ndarray]], list[np.ndarray]],
    limits: Limits = ANYTHING,
) -> VerifyResult:
    reference = OnnxRuntimeBackend(model)
    return verify(reference, {"other": Changed(model, change)}, pictures, limits)


def test_the_same_network_passes(model: Path, labelled: Pictures) -> None:
    result = check(model, labelled, lambda heads: heads, LIMITS["fp32"])
    (same,) = result.candidates
    assert result.passed
    assert result.pictures == 6
    assert result.reference_ap is not None
    assert result.reference_ap > 50
    assert (same.ap, same.ap_drop, same.matched) == (result.reference_ap, 0.0, 1.0)
    assert [o.name for o in same.outputs] == list(SPEC.output_names)
    assert all(o.rms == o.largest == 0 for o in same.outputs)
    result.raise_if_failed()


def test_errors_are_measured_per_output(model: Path, pictures: Pictures) -> None:
    def one_percent(heads: list[np.ndarray]) -> list[np.ndarray]:
        heads[1] = heads[1] * 1.01
        return heads

    (other,) = check(model, pictures, one_percent).candidates
    errors = {o.name: o for o in other.outputs}
    assert errors["cls_p4"].rms == pytest.approx(0.01, rel=1e-3)
    assert errors["cls_p4"].largest == pytest.approx(0.01, rel=1e-3)
    assert errors["cls_p3"].rms == errors["reg_p4"].rms == 0
    assert other.ap is None


def shifted(heads: list[np.ndarray]) -> list[np.ndarray]:
    """Boxes grow to the right by a third of a cell's unit."""
    for head in heads[5:]:
        head[:, 2] += 0.3
    return heads


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        (Limits(0.02, 0.0, np.inf), r"^output_error: reg_p\d \S+ > 0.02$"),
        (Limits(np.inf, 0.98, np.inf), r"^matched: 0\.\d+ < 0.98$"),
        (Limits(np.inf, 0.0, 0.1), r"^ap_drop: \d+\.\d+ > 0.1$"),
    ],
)
def test_each_limit_fails_by_its_name(
    model: Path, labelled: Pictures, limits: Limits, line: str
) -> None:
    import re

    result = check(model, labelled, shifted, limits)
    (failure,) = result.candidates[0].failures
    assert re.search(line, failure)
    assert not result.passed
    with pytest.raises(VerificationError, match="other is too far from the canonical model"):
        result.raise_if_failed()
    assert check(model, labelled, shifted).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails(model: Path, pictures: Pictures, value: float) -> None:
    def broken(heads: list[np.ndarray]) -> list[np.ndarray]:
        heads[0][0, 0, 0, 0] = value
        return heads

    result = check(model, pictures, broken, Limits(1e9, 0.0, 1e9))
    (failure,) = result.candidates[0].failures
    assert failure.startswith("output_error: cls_p3 inf")
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["candidates"][0]["outputs"][0]["rms"] is None


def test_the_json_is_for_the_sidecar(model: Path, labelled: Pictures) -> None:
    raw = json.loads(json.dumps(check(model, labelled, shifted).to_json(), allow_nan=False))
    assert raw["passed"] is True
    assert raw["pictures"] == 6
    assert raw["limits"] == {"output_error": None, "matched": 0.0, "ap_drop": None}
    (other,) = raw["candidates"]
    assert set(other) == {"name", "outputs", "matched", "ap", "ap_drop", "failures"}
    assert other["ap"] == pytest.approx(raw["reference_ap"] - other["ap_drop"])


@pytest.mark.parametrize("io", ["float16", "float32"])
def test_fp16_passes_its_limits(model: Path, labelled: Pictures, tmp_path: Path, io: str) -> None:
    half = OnnxRuntimeBackend(save(tmp_path / "half.onnx", to_half(build_network(), io=io)))
    result = verify(OnnxRuntimeBackend(model), {"fp16": half}, labelled, LIMITS["fp16"])
    assert result.candidates[0].failures == ()
    assert 0 < max(o.rms for o in result.candidates[0].outputs) < 0.01


def test_a_network_that_ends_in_nms_is_compared_by_its_boxes(
    model: Path, labelled: Pictures, tmp_path: Path
) -> None:
    finished = OnnxRuntimeBackend(save(tmp_path / "nms.onnx", add_nms(build_network(), "onnx")))
    result = verify(OnnxRuntimeBackend(model), {"nms": finished}, labelled, LIMITS["fp32"])
    (nms,) = result.candidates
    assert nms.failures == ()
    assert nms.outputs == ()
    assert nms.ap == pytest.approx(result.reference_ap, abs=0.01)


def test_a_fixed_batch_and_several_candidates(
    model: Path, pictures: Pictures, tmp_path: Path
) -> None:
    fixed = OnnxRuntimeBackend(save(tmp_path / "fixed.onnx", build_network(batch=3)))
    other = OnnxRuntimeBackend(save(tmp_path / "other.onnx", build_network(seed=1)))
    limits = Limits(1e-3, 0.999, 0.1)
    result = verify(OnnxRuntimeBackend(model), {"fixed": fixed, "other": other}, pictures, limits)
    assert [c.name for c in result.candidates if c.failures] == ["other"]
    assert not result.passed


def test_other_models_and_no_pictures_are_refused(
    model: Path, pictures: Pictures, tmp_path: Path
) -> None:
    spec = SPEC.replace(name="another")
    other = OnnxRuntimeBackend(save(tmp_path / "other.onnx", build_network(spec)))
    with pytest.raises(InvalidValueError, match="other was not made from this model"):
        verify(OnnxRuntimeBackend(model), {"other": other}, pictures, ANYTHING)
    (tmp_path / "bad.png").write_bytes(b"")
    bad = open_pictures(tmp_path)
    with pytest.raises(InvalidValueError, match="no picture can be read"):
        verify(OnnxRuntimeBackend(model), {}, bad, ANYTHING)


def test_unreadable_pictures_are_left_out_of_truth_too(
    model: Path, labelled: Pictures, tmp_path: Path
) -> None:
    missing = list(labelled.files)
    missing[2] = tmp_path / "gone.png"
    some = Pictures(labelled.source, tuple(missing), labelled.frames, labelled.truth)
    result = check(model, some, lambda heads: heads, LIMITS["fp32"])
    assert result.pictures == 5
    assert result.passed


def boxes(*rows: tuple[Any, ...]) -> Detections:
    """Detections of (x1, y1, x2, y2, confidence, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32), SPEC.class_names)


def test_matched_boxes_by_hand() -> None:
    a = boxes((0, 0, 100, 100, 0.9, 0), (200, 0, 300, 100, 0.5, 1))
    assert matched_share([a], [a]) == 1
    near = boxes((0, 0, 100, 95, 0.8, 0), (200, 0, 300, 89, 0.5, 1))
    assert matched_share([a], [near]) == 0.5
    other_class = boxes((0, 0, 100, 100, 0.9, 0), (200, 0, 300, 100, 0.5, 2))
    assert matched_share([a], [other_class]) == 0.5
    # Just under the confidence is still a partner; far under is none.
    assert matched_share([a], [boxes((0, 0, 100, 100, 0.9, 0), (200, 0, 300, 100, 0.2, 1))]) == 1
    faint = boxes((0, 0, 100, 100, 0.9, 0), (200, 0, 300, 100, 0.1, 1))
    assert matched_share([a], [faint]) == 0.75
    assert matched_share([a], [boxes()]) == 0.5
    assert matched_share([boxes()], [boxes()]) == 1


def test_classes_go_by_name(labelled: Pictures, model: Path) -> None:
    assert labelled.truth is not None
    detector = Detector.load(model, conf=0.3)
    found = [detector(frame) for _, frame in labelled]
    want = average_precision(labelled.truth, found)
    turned = []
    for record in labelled.truth.records:
        turned.append(
            Record.build(
                record.path,
                record.image_id,
                record.width,
                record.height,
                record.boxes,
                2 - record.labels,
            )
        )
    backwards = Dataset("turned", SPEC.class_names[::-1], tuple(turned), (1, 2, 3))
    matched = dataclasses.replace(labelled, truth=backwards).truth_for(SPEC.class_names)
    assert matched is not None
    assert average_precision(matched, found) == pytest.approx(want)
    other = Dataset("other", ("elk", "ape", "cow"), labelled.truth.records, (1, 2, 3))
    with pytest.raises(InvalidValueError, match="no class in common"):
        dataclasses.replace(labelled, truth=other).truth_for(SPEC.class_names)
