"""Pictures for TensorRT's own calibrator, on a device of host memory; the calls TensorRT makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trt_afdet.engine.networks import SPEC, picture, save, write_pictures
from tests.trt_afdet.runtime.host_device import HostDevice
from trt_afdet.engine.onnx.model_file import Canonical
from trt_afdet.engine.options import BuildOptions
from trt_afdet.engine.plan import BuildPlan
from trt_afdet.engine.precision import implicit_calibration
from trt_afdet.engine.precision.implicit_calibration import ImplicitCalibration
from trt_afdet.errors import InvalidValueError, RunError, WriteError
from trt_afdet.preprocess import preprocess


class Flavour:
    """Only its name counts here."""

    def __str__(self) -> str:
        return "TensorRT 10.3.0"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    made = HostDevice()
    monkeypatch.setattr(implicit_calibration, "open_device", lambda: made)
    return made


def make(
    tmp_path: Path, pictures: Path, *, progress: Any = None, **changes: Any
) -> ImplicitCalibration:
    model = tmp_path / "model.onnx"
    if not model.exists():
        save(model)
    options = BuildOptions(
        onnx=model,
        output=tmp_path / "m.engine",
        precision="int8",
        int8_mode="implicit",
        calib=str(pictures),
        **{"batch": (1, 4, 8), **changes},
    )
    flavour: Any = Flavour()
    cache = tmp_path / "m.engine.calibration.json"
    plan = BuildPlan(options, flavour, None, False, ("8.7",), None, None, cache, None)
    source = Canonical.load(model)
    return ImplicitCalibration(plan, source, progress or (lambda items, total, description: items))


def images(calibration: ImplicitCalibration, device: HostDevice) -> Iterator[np.ndarray]:
    """What TensorRT would read, batch by batch."""
    shape = (calibration.size, 3, SPEC.height, SPEC.width)
    while (address := calibration.next_address()) is not None:
        yield device.view(address, 4 * int(np.prod(shape))).view(np.float32).reshape(shape).copy()


def test_tensorrt_gets_preprocessed_pictures_in_full_batches_once(
    tmp_path: Path, device: HostDevice
) -> None:
    calibration = make(tmp_path, write_pictures(tmp_path / "pictures", 18))
    assert calibration.size == 4
    got = np.concatenate(list(images(calibration, device)))
    # TensorRT takes full batches only: the last two are left.
    want = preprocess([picture(i) for i in range(16)], SPEC)[0]
    np.testing.assert_array_equal(got, want)
    assert calibration.next_address() is None
    calibration.finish(pytest.fail)
    assert device.held() == []


def test_the_result_is_good_for_the_very_same_build_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implicit_calibration, "open_device", HostDevice)
    pictures = write_pictures(tmp_path / "pictures", 20)
    first = make(tmp_path, pictures)
    assert first.read_cache() is None
    first.write_cache(b"scales")
    first.finish(pytest.fail)
    same = make(tmp_path, pictures)
    assert same.read_cache() == b"scales"
    # TensorRT asks for no pictures then; none are read either.
    assert same.next_address() is None
    other = make(tmp_path, write_pictures(tmp_path / "others", 20, first=50))
    assert other.read_cache() is None
    assert make(tmp_path, pictures, calib_images=17).read_cache() is None
    text = same._cache.read_text()
    for bad in (text[:-5], text.replace("c2NhbGVz", "c2NhbGVT"), "[]", "", '{"key": 1}'):
        same._cache.write_text(bad)
        assert make(tmp_path, pictures).read_cache() is None


def test_too_few_readable_pictures_are_refused_before_the_build(
    tmp_path: Path, device: HostDevice
) -> None:
    pictures = write_pictures(tmp_path / "pictures", 18)
    for path in sorted(pictures.iterdir())[:3]:
        path.write_bytes(b"no picture")
    with pytest.raises(InvalidValueError, match=r"at least 16 readable pictures \(got 15 of 18"):
        make(tmp_path, pictures)


def test_unreadable_pictures_are_counted(tmp_path: Path, device: HostDevice) -> None:
    pictures = write_pictures(tmp_path / "pictures", 22)
    (pictures / "020.png").write_bytes(b"no picture")
    calibration = make(tmp_path, pictures)
    assert len(list(images(calibration, device))) == 5
    told: list[str] = []
    calibration.finish(told.append)
    assert told == ["1 of 22 pictures unreadable"]


def test_a_failure_inside_tensorrt_is_told_and_leaves_no_cache(
    tmp_path: Path, device: HostDevice
) -> None:
    """TensorRT takes the end of the pictures for the end, and would build on what it has."""

    def fails(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
        for count, item in enumerate(items):
            if count == 9:
                raise MemoryError("no room")
            yield item

    calibration = make(tmp_path, write_pictures(tmp_path / "pictures", 18), progress=fails)
    assert len(list(images(calibration, device))) == 2
    calibration.write_cache(b"scales of two batches")
    with pytest.raises(RunError, match=r"calibration stopped early \(got no room\)"):
        calibration.finish(pytest.fail)
    assert calibration.read_cache() is None
    assert device.held() == []


def test_a_cache_that_cannot_be_kept_is_no_reason_to_lose_an_engine(
    tmp_path: Path, device: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise WriteError("cannot write", got=path)

    calibration = make(tmp_path, write_pictures(tmp_path / "pictures", 16))
    monkeypatch.setattr(implicit_calibration, "write_text", full)
    calibration.write_cache(b"scales")
    told: list[str] = []
    calibration.finish(told.append)
    assert len(told) == 1
    assert told[0].startswith("the calibration is not kept: cannot write (got ")
