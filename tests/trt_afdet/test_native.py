"""Finding, checking and calling the native libraries."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.skips import skip_test
from trt_afdet import native
from trt_afdet.errors import InvalidValueError
from trt_afdet.postprocess import postprocess
from trt_afdet.spec import ModelSpec

SPEC = ModelSpec(name="tiny", class_names=("a", "b", "c"), height=128, width=256)


@pytest.fixture
def host() -> native.HostLibrary:
    try:
        return native.host()
    except native.NativeMissingError as error:
        skip_test(error, "make native-host")


@pytest.fixture
def _forget() -> object:
    """Loaded libraries are remembered; these tests move them about."""
    from trt_afdet import postprocess as module

    for cached in (native.host, native.cuda, native.emulated, module._native):
        cached.cache_clear()
    yield
    for cached in (native.host, native.cuda, native.emulated, module._native):
        cached.cache_clear()


def heads(seed: int = 0, dtype: type = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    cls = [rng.normal(-2, 1, (2, 3, *size)).astype(dtype) for size in SPEC.grid_sizes]
    return cls + [rng.uniform(0, 1, (2, 4, *size)).astype(dtype) for size in SPEC.grid_sizes]


def test_the_struct_says_what_the_spec_says() -> None:
    params = native.DecodeParams.of(SPEC.replace(class_agnostic=True, nms_iou=0.25))
    assert params.struct_size == ctypes.sizeof(native.DecodeParams) == 76
    assert (params.height, params.width, params.num_classes) == (128, 256, 3)
    assert list(params.strides) == [8, 16, 32, 64, 128, 0, 0, 0]
    assert (params.class_agnostic, params.nms_iou) == (1, 0.25)
    # There are 16 x 32 points of 3 classes: asking for more than all of them is no error.
    assert (
        native.DecodeParams.of(SPEC.replace(candidates_per_level=2**30)).candidates_per_level
        == 1536
    )


def test_more_levels_than_the_native_code_takes() -> None:
    strides = tuple(2**i for i in range(9))
    spec = ModelSpec(name="deep", class_names=("a",), height=256, width=256, strides=strides)
    with pytest.raises(InvalidValueError, match="up to 8 levels"):
        native.DecodeParams.of(spec)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_strided_heads_equal_contiguous_ones(host: native.HostLibrary, dtype: type) -> None:
    plain = heads(dtype=dtype)
    strided = [np.repeat(head, 2, axis=-1)[..., ::2] for head in plain]
    assert not strided[0].flags.c_contiguous
    for first, second in zip(host.detect(plain, SPEC), host.detect(strided, SPEC), strict=True):
        np.testing.assert_array_equal(first, second)


def test_heads_of_mixed_types_are_taken_as_float32(host: native.HostLibrary) -> None:
    mixed = heads(dtype=np.float16)[:5] + heads()[5:]
    exact = [head.astype(np.float32) for head in mixed]
    for first, second in zip(host.detect(mixed, SPEC), host.detect(exact, SPEC), strict=True):
        np.testing.assert_array_equal(first, second)


def test_unused_rows_are_zero_and_of_no_class(host: native.HostLibrary) -> None:
    found = host.detect(heads(), SPEC.replace(score_threshold=0.5))
    for image in range(2):
        count = found.num_detections[image, 0]
        assert 0 < count < SPEC.max_detections
        assert (found.classes[image, count:] == -1).all()
        assert not found.boxes[image, count:].any()
        assert not found.scores[image, count:].any()


def test_a_refusal_says_what_is_wrong(host: native.HostLibrary) -> None:
    with pytest.raises(native.NativeError, match=r"decoding on the CPU failed: candidates_per_le"):
        host.detect(heads(), SPEC.replace(max_detections=2**21))


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (9, "float32 or float16"),
        (1209, r"no code for this GPU \(got CUDA error 209\) - build it with"),
        (1002, "out of device memory .* smaller batch"),
        (1999, "cudaError_t"),
        (77, "unknown status"),
    ],
)
def test_statuses_are_translated(status: int, text: str) -> None:
    with pytest.raises(native.NativeError, match=text):
        native.check_status(status, "decoding")
    native.check_status(0, "decoding")


@pytest.mark.usefixtures("_forget")
def test_without_the_library_numpy_does_the_work_after_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_library = postprocess(heads(), SPEC)
    from trt_afdet import postprocess as module

    native.host.cache_clear()
    module._native.cache_clear()
    # By its real name the system would hand out the one that is loaded already.
    monkeypatch.setattr(native, "file_name", lambda name: f"lib{name}_absent.so")
    caplog.clear()
    without = postprocess(heads(), SPEC)
    postprocess(heads(), SPEC)
    assert [record.getMessage() for record in caplog.records] == [
        "the native library libafdet_host_absent.so was not found - install trt-afdet "
        "where a C++ compiler is, or set TRT_AFDET_LIBRARY_PATH; postprocessing runs in NumPy, "
        "slower"
    ]
    for first, second in zip(with_library, without, strict=True):
        np.testing.assert_array_equal(first.xyxy, second.xyxy)
        np.testing.assert_array_equal(first.class_id, second.class_id)
        np.testing.assert_allclose(first.confidence, second.confidence, rtol=1e-6)


@pytest.mark.usefixtures("_forget")
def test_a_listed_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / native.file_name("afdet_host")
    fake.write_text("not a library")
    monkeypatch.setenv(
        native.LIBRARY_PATH_VARIABLE, os.pathsep.join(["/nonexistent", str(tmp_path)])
    )
    assert native.find("afdet_host") == str(fake)
    with pytest.raises(native.NativeMissingError, match=r"cannot be loaded .*doctor"):
        native.host()


@pytest.mark.usefixtures("_forget")
def test_another_interface_version_is_refused(
    host: native.HostLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    native.host.cache_clear()
    monkeypatch.setattr(native, "ABI_VERSION", 99)
    with pytest.raises(native.NativeMissingError, match=r"interface version 1, .* needs 99"):
        native.host()


@pytest.mark.usefixtures("_forget")
def test_a_library_that_is_not_ours_is_refused(
    host: native.HostLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / native.file_name("afdet_cuda")).symlink_to(host.path)
    monkeypatch.setenv(native.LIBRARY_PATH_VARIABLE, str(tmp_path))
    with pytest.raises(native.NativeMissingError, match="not the native library it should be"):
        native.cuda()


def test_nothing_native_is_loaded_by_an_import() -> None:
    code = (
        "import trt_afdet.postprocess, trt_afdet.runtime.detector; "
        "print(open('/proc/self/maps').read().count('libafdet'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "0"
