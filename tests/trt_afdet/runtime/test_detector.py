"""Detector: frames in, detections out."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import trt_afdet
from tests.trt_afdet.onnx_models import SPEC, build_model, save_model
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.postprocess import postprocess
from trt_afdet.preprocess import preprocess
from trt_afdet.runtime.detector import Detector, class_ids
from trt_afdet.runtime.times import StageTimes, percentile


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.onnx")


def scene(seed: int = 0, height: int = 300, width: int = 400) -> npt.NDArray[np.uint8]:
    """Blocks of colour, so that the pooling network sees contrast."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((height // 6, width // 8, 1), np.uint8))


def same(a: Detections, b: Detections) -> bool:
    return (
        len(a) == len(b) > 0
        and np.allclose(a.xyxy, b.xyxy, atol=1e-3)
        and a.class_id.tolist() == b.class_id.tolist()
    )


def test_is_preprocess_network_postprocess(model: Path) -> None:
    assert issubclass(trt_afdet.Detector, Detector)
    with Detector.load(model) as detector:
        frame = scene()
        got = detector(frame)
        images, boxes = preprocess([frame], SPEC)
        want = postprocess(detector.backend.infer(images), SPEC, boxes)[0]
    assert same(got, want)
    assert got.class_names == SPEC.class_names
    assert got.xyxy.max() <= 400


def test_a_list_equals_one_by_one(model: Path) -> None:
    detector = Detector.load(model)
    frames = [scene(1), scene(2, 120, 240), scene(3, 600, 160)]
    together = detector(frames)
    assert isinstance(together, list)
    assert all(same(t, detector(f)) for t, f in zip(together, frames, strict=True))
    assert detector([]) == []


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_file_of_fixed_batch_takes_any_number(model: Path, tmp_path: Path, count: int) -> None:
    fixed = Detector.load(save_model(tmp_path / "fixed.onnx", build_model(batch=2)))
    frames = [scene(i) for i in range(count)]
    want = Detector.load(model)(frames)
    got = fixed(frames)
    assert len(got) == count
    assert all(same(g, w) for g, w in zip(got, want, strict=True))


def test_replacements_of_the_spec(model: Path) -> None:
    frame = scene()
    plain = Detector.load(model)(frame)
    strict = Detector.load(model, conf=0.9, max_detections=5)
    assert strict.spec.nms_iou == SPEC.nms_iou
    assert len(strict(frame)) <= 5 < len(plain)
    assert (strict(frame).confidence > 0.9).all()
    assert len(Detector.load(model, iou=0.01, max_detections=9999)(frame)) < len(
        Detector.load(model, iou=1.0, max_detections=9999)(frame)
    )
    with pytest.raises(InvalidValueError, match="score_threshold"):
        Detector.load(model, conf=-1)


def test_classes_by_name_and_id(model: Path) -> None:
    found = Detector.load(model, classes=["imp", 2], max_detections=9999)(scene())
    assert set(found.names) == {"imp", "barrel"}


def test_class_ids() -> None:
    names = ("imp", "zombie", "7")
    assert class_ids(["zombie", 0, "0"], names) == [0, 1]
    assert class_ids(["7"], names) == [2]  # A name before a number.
    with pytest.raises(InvalidValueError, match="did you mean 'zombie'"):
        class_ids(["zombi"], names)
    with pytest.raises(InvalidValueError, match=r"no such class \(got 3\)"):
        class_ids([3], names)
    with pytest.raises(InvalidValueError, match="at least one"):
        class_ids([], names)


def test_engines_and_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"model\.engine"):
        Detector.load(tmp_path / "model.engine")
    with pytest.raises(InvalidValueError, match=r"an \.onnx or an \.engine file"):
        Detector.load(tmp_path / "model.pt")


def test_several_threads_share_one_detector(model: Path) -> None:
    detector = Detector.load(model)
    frames = [scene(i) for i in range(4)]
    want = [detector(frame) for frame in frames]
    got: dict[int, list[Detections]] = {i: [] for i in range(4)}

    def work(index: int) -> None:
        got[index] = [detector(frames[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(g, want[i]) for i in range(4) for g in got[i])
    assert all(len(got[i]) == 5 for i in range(4))


def test_times_have_every_stage_per_frame(model: Path) -> None:
    detector = Detector.load(model)
    detector([scene()] * 3)
    assert [row[0] for row in detector.times.rows()] == ["preprocess", "network", "postprocess"]
    assert all(
        len(detector.times.seconds[s]) == 3 for s in ("preprocess", "network", "postprocess")
    )
    assert all(0 < p50 <= p95 for _, p50, p95 in detector.times.rows())


def test_stage_times_share_a_batch_and_skip_what_raised() -> None:
    times = StageTimes()
    times.record("write", 0.4, frames=4)
    times.record("decode", 0.001)
    times.record("decode", 1.0, frames=0)
    assert [(s, round(a, 6), round(b, 6)) for s, a, b in times.rows()] == [
        ("decode", 1.0, 1.0),
        ("write", 100.0, 100.0),
    ]
    with pytest.raises(ZeroDivisionError), times.measure("network"):
        raise ZeroDivisionError
    assert "network" not in times.seconds


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentile_equals_numpy(count: int, share: float) -> None:
    values = np.random.default_rng(count).normal(size=count).tolist()
    assert percentile(values, share) == pytest.approx(np.percentile(values, share * 100))
