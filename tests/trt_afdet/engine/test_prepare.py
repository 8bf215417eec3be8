"""One call from model.onnx to a precision."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tests.paths import ROOT
from tests.trt_afdet.engine.networks import (
    build_network,
    error,
    images,
    run,
    save,
    write_pictures,
)
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.engine.precision.fp16 import emulate_half
from trt_afdet.engine.precision.readback import of_model
from trt_afdet.engine.precision.sensitivity import Sensitivity
from trt_afdet.engine.prepare import ConvertOptions, convert
from trt_afdet.errors import InvalidValueError, MissingFileError, RunError

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 24)


def int8(pictures: Path, **changes: Any) -> ConvertOptions:
    options: dict[str, Any] = {
        "calibration": pictures,
        "calibration_images": 16,
        "held_out": 0,
        "method": "minmax",
        **changes,
    }
    return ConvertOptions(**options)


def test_fp32_is_the_model_itself(model: Path) -> None:
    result = convert(model, "fp32")
    assert result.model == load_canonical(model)[0]
    assert (result.precision, result.kept, result.calibration_key) == ("fp32", (), None)


def test_fp16(model: Path) -> None:
    result = convert(model, "fp16", ConvertOptions(io="float16", keep=("stem", "n_c3")))
    assert result.kept == ("stem", "n_c3")
    stored = {t.name: t.data_type for t in result.model.graph.initializer}
    assert stored["backbone.conv_stem.weight"] == TensorProto.FLOAT
    assert stored["backbone.blocks.1.a.weight"] == TensorProto.FLOAT16
    # To be run on a CPU: the same, rounded where a GPU would.
    x = images().astype(np.float16)
    plain, rounded = run(result.model, x), run(emulate_half(result.model), x)
    assert 0 < error(plain, rounded) < 5e-3
    whole = convert(model, "fp32").model
    assert emulate_half(whole).graph.node == whole.graph.node


def test_what_fp16_cannot_hold_stays_fp32_and_is_told(tmp_path: Path, pictures: Path) -> None:
    large = build_network()
    bias = next(t for t in large.graph.initializer if t.name == "backbone.blocks.1.a.bias")
    values = numpy_helper.to_array(bias).copy()
    values[0] = -70000
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    path = save(tmp_path / "large.onnx", large)
    said: list[str] = []
    result = convert(path, "fp16", ConvertOptions(warn=said.append))
    assert result.kept == ("n_res1",)
    assert len(said) == 1
    assert "70000, beyond FP16's 65504: n_res1 stays FP32" in said[0]
    assert error(run(large, images()), run(result.model, images())) < 5e-3
    quantized = convert(path, "int8", int8(pictures))
    assert quantized.kept == ("n_res1",)
    stored = {t.name: t.data_type for t in quantized.model.graph.initializer}
    assert stored[bias.name] == TensorProto.FLOAT


@pytest.mark.parametrize("half", [True, False])
def test_int8(model: Path, pictures: Path, half: bool, tmp_path: Path) -> None:
    cache = tmp_path / "ranges.json"
    result = convert(model, "int8", int8(pictures, half=half, keep=("stage2",), cache=cache))
    kinds = {t.data_type for t in result.model.graph.initializer}
    assert (TensorProto.FLOAT16 in kinds) == half
    assert TensorProto.INT8 in kinds
    assert result.kept == ("stage2",)
    ranges = json.loads(cache.read_text())
    assert ranges["key"] == result.calibration_key
    assert ranges["pictures"] == 16
    by_block = of_model(result.model).groups()
    assert by_block["stage2"] == {"HALF" if half else "FLOAT": 2}
    assert by_block["head/cls"]["INT8"] == 5
    x = images()
    assert error(run(build_network(), x), run(result.model, x)) < 0.1
    # NMS goes behind it as behind the canonical model.
    onnx.checker.check_model(add_nms(result.model, "onnx"))


def test_int8_again_uses_the_cache_whatever_is_kept(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "ranges.json"
    steps: list[str] = []

    def progress(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        steps.append(description)
        return items

    first = convert(model, "int8", int8(pictures, cache=cache, progress=progress))
    assert steps == ["calibrating"]
    kept = int8(pictures, cache=cache, keep=("neck1",), half=False, progress=progress)
    again = convert(model, "int8", kept)
    assert steps == ["calibrating"]
    assert again.calibration_key == first.calibration_key


def test_sensitivity_chooses_and_reports(model: Path, pictures: Path, tmp_path: Path) -> None:
    told: list[Sensitivity] = []
    cache = tmp_path / "ranges.json"
    options = int8(pictures, held_out=4, max_ap_drop=50, measured=told.append, cache=cache)
    result = convert(model, "int8", options)
    (found,) = told
    assert result.kept == found.kept
    assert json.loads(cache.read_text())["pictures"] == 16
    assert found.pictures == 4
    assert found.reached is True


def test_a_limit_that_int8_cannot_keep_is_an_error(model: Path, pictures: Path) -> None:
    with pytest.raises(RunError, match=r"INT8 loses more than 1e-06 points of AP.*use fp16"):
        convert(model, "int8", int8(pictures, held_out=2, max_ap_drop=1e-6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"io": "int8"}, "io must be float32 or float16"),
        ({"method": "kl"}, "method must be one of entropy, minmax, percentile"),
        ({"calibration_images": 15}, r"at least 16 pictures \(got 15\)"),
        ({"held_out": -1}, "held_out must not be below 0"),
        ({"max_ap_drop": 0}, "max_ap_drop above it"),
        ({"max_ap_drop": float("nan")}, "max_ap_drop above it"),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        ConvertOptions(**changes)


def test_bad_input(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="precision must be one of fp32, fp16, int8"):
        convert(model, "int4")
    with pytest.raises(InvalidValueError, match="INT8 needs calibration pictures"):
        convert(model, "int8")
    with pytest.raises(MissingFileError, match="no such model"):
        convert(tmp_path / "none.onnx", "fp16")
    with pytest.raises(InvalidValueError, match="no block or node of that name"):
        convert(model, "fp16", ConvertOptions(keep=("stagee1",)))
    few = write_pictures(tmp_path / "few", 8)
    with pytest.raises(InvalidValueError, match=r"at least 16 readable pictures \(got 8 of 8"):
        convert(model, "int8", int8(few))


@pytest.mark.slow
def test_the_shipped_model_in_int8(tmp_path: Path) -> None:
    from trt_afdet.engine.onnx.model_file import save_model
    from trt_afdet.engine.sample_pictures import open_pictures
    from trt_afdet.engine.verify import LIMITS, verify
    from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

    clip = SHIPPED.with_name("clip.mp4")
    result = convert(SHIPPED, "int8", int8(clip, calibration_images=24, io="float16"))
    save_model(result.model, tmp_path / "int8.onnx")
    pictures = open_pictures(SHIPPED.with_name("clip.json")).spread(16)
    with (
        OnnxRuntimeBackend(SHIPPED) as reference,
        OnnxRuntimeBackend(tmp_path / "int8.onnx") as candidate,
    ):
        checked = verify(reference, {"int8": candidate}, pictures, LIMITS["int8"])
    assert np.isfinite(checked.candidates[0].outputs[0].rms)
    assert checked.candidates[0].matched > 0.5
