"""The ONNX Runtime backend on real files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trt_afdet.onnx_models import SPEC, build_model, save_model
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError, RunError
from trt_afdet.runtime.backend import Backend
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.onnx")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 3, 256, 384)).astype(np.float32)


def test_outputs_come_in_the_order_of_the_spec(model: Path) -> None:
    with OnnxRuntimeBackend(model) as backend:
        assert isinstance(backend, Backend)
        assert backend.spec == SPEC
        assert backend.batch_size is None
        outputs = backend.infer(images(2))
    channels = [3] * 5 + [4] * 5
    assert [o.shape for o in outputs] == [
        (2, c, *size) for c, size in zip(channels, SPEC.grid_sizes * 2, strict=True)
    ]
    assert all(o.dtype == np.float32 for o in outputs)
    assert min(float(o.min()) for o in outputs[5:]) >= 0


def test_threads_do_not_change_the_result(model: Path) -> None:
    one, two = (OnnxRuntimeBackend(model, threads=n).infer(images(1)) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    backend = OnnxRuntimeBackend(save_model(tmp_path / "model.onnx", build_model(batch=4)))
    assert backend.batch_size == 4
    assert backend.infer(images(4))[0].shape[0] == 4
    with pytest.raises(InvalidValueError, match=r"must be float32 \[4, 3, 256, 384\]"):
        backend.infer(images(3))


def test_closed_and_wrong_images(model: Path) -> None:
    backend = OnnxRuntimeBackend(model)
    for bad in (images(1)[0], images(1).astype(np.float64), images(1)[:, :, :, 1:]):
        with pytest.raises(InvalidValueError, match=r"images must be float32 \[N, 3, 256, 384\]"):
            backend.infer(bad)
    backend.close()
    backend.close()
    with pytest.raises(RunError, match="closed"):
        backend.infer(images(1))


def test_missing_empty_truncated_and_foreign_files(tmp_path: Path, model: Path) -> None:
    with pytest.raises(MissingFileError, match="no such model"):
        OnnxRuntimeBackend(tmp_path / "none.onnx")
    with pytest.raises(MissingFileError, match="no such model"):
        OnnxRuntimeBackend(tmp_path)
    bad = tmp_path / "bad.onnx"
    data = model.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="empty"):
        OnnxRuntimeBackend(bad)
    for content in (data[: len(data) // 2], b"no model at all", data[100:]):
        bad.write_bytes(content)
        with pytest.raises(CorruptFileError, match="cannot open") as caught:
            OnnxRuntimeBackend(bad)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metadata": None}, "is not a trt-afdet model"),
        ({"metadata": "{}"}, "model.onnx: the model's spec lacks schema_version"),
        ({"metadata": SPEC.to_json().replace('version": 1', 'version": 2')}, "upgrade trt-afdet"),
        ({"input_name": "x"}, r"input must be 'images' \(got x\)"),
        ({"input_size": (256, 256)}, r"'images' does not fit.*\[N, 3, 256, 384\]"),
        ({"classes": 5}, r"'cls_p3' does not fit.*expected \[N, 3, 32, 48\] \(got \[N, 5, 32, 48"),
        ({"drop": "reg_p6"}, "output 'reg_p6' of the spec is missing"),
    ],
)
def test_files_that_are_not_ours_or_contradict_their_spec(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    path = save_model(tmp_path / "model.onnx", build_model(**options))  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=message) as caught:
        OnnxRuntimeBackend(path)
    assert "model.onnx" in str(caught.value)


def test_options_out_of_range(model: Path) -> None:
    with pytest.raises(InvalidValueError, match="threads must be at least 1"):
        OnnxRuntimeBackend(model, threads=0)
    with pytest.raises(InvalidValueError, match=r"no such execution provider \(got NoSuch\)"):
        OnnxRuntimeBackend(model, providers=["NoSuch"])
