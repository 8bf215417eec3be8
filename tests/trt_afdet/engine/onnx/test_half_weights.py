"""FP16 weights: half the file, the same network for whoever reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.trt_afdet.onnx_models import build_model, save_model
from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.engine.onnx.half_weights import restore, store_half
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend
from trt_afdet.spec import ModelSpec

#: Enough classes for a head's weights to be a large tensor.
MANY = ModelSpec(
    name="tiny", class_names=tuple(f"class {i}" for i in range(100)), height=128, width=128
)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def rounded(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights that a reader gets, by their names in the graph."""
    return {
        name: w.astype(np.float16).astype(np.float32)
        if w.dtype == np.float32 and w.size >= 256
        else w
        for name, w in weights(model).items()
    }


def test_the_shipped_model_is_halved_and_comes_back_rounded() -> None:
    plain = onnx.load(SHIPPED_MODEL)
    model = onnx.load(SHIPPED_MODEL)
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < 0.53 * plain.ByteSize()
    restore(model)
    assert model.graph.node == plain.graph.node
    expected = rounded(plain)
    got = weights(model)
    assert list(got) == list(expected)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    assert {t.data_type for t in model.graph.initializer} == {
        t.data_type for t in plain.graph.initializer
    }


def test_onnx_runtime_computes_with_the_rounded_weights_in_fp32(tmp_path: Path) -> None:
    half = onnx.load(SHIPPED_MODEL)
    store_half(half)
    full = type(half).FromString(half.SerializeToString())
    restore(full)
    spec = ModelSpec.from_json(next(p.value for p in half.metadata_props))
    images = np.random.default_rng(0).normal(size=(1, 3, spec.height, spec.width))
    outputs = []
    for name, model in (("half", half), ("full", full)):
        with OnnxRuntimeBackend(save_model(tmp_path / f"{name}.onnx", model)) as backend:
            outputs.append(backend.infer(images.astype(np.float32)))
    for a, b in zip(*outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_builder_reads_it_as_any_canonical_model(tmp_path: Path) -> None:
    model = build_model(MANY)
    expected = rounded(model)
    store_half(model)
    loaded, spec = load_canonical(save_model(tmp_path / "half.onnx", model))
    assert spec == MANY
    assert not [n for n in loaded.graph.node if n.op_type == "Cast"]
    got = weights(loaded)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_values_beyond_fp16_stay_in_fp32() -> None:
    model = build_model(MANY)
    large = next(t for t in model.graph.initializer if np.prod(t.dims) >= 256)
    name = large.name
    values = numpy_helper.to_array(large).copy()
    values.flat[0] = 1e5
    large.CopyFrom(numpy_helper.from_array(values, name))
    store_half(model)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds[name] == TensorProto.FLOAT
    assert np.array_equal(weights(model)[name], values)


def test_a_weight_that_others_read_as_fp16_stays() -> None:
    model = build_model(MANY)
    store_half(model)
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    model.graph.node.append(onnx.helper.make_node("Identity", [cast.input[0]], ["also"]))
    restore(model)
    kept = [node for node in model.graph.node if node.op_type == "Cast"]
    assert [node.input[0] for node in kept] == [cast.input[0]]
    assert weights(model)[cast.input[0]].dtype == np.float16
