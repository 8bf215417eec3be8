"""FP16 in the ONNX itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.paths import ROOT
from tests.trt_afdet.engine.networks import SPEC, build_network, error, images, run, save
from trt_afdet.engine.onnx.model_file import load_canonical, save_model
from trt_afdet.engine.onnx.nms import check_canonical
from trt_afdet.engine.precision.fp16 import (
    emulate_half,
    fp32_tail,
    out_of_range,
    sort_nodes,
    to_half,
)
from trt_afdet.errors import InvalidValueError
from trt_afdet.runtime.detector import Detector
from trt_afdet.runtime.onnxruntime import OnnxRuntimeBackend

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of the graph."""
    graph = model.graph
    found = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def casts(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Cast"]


@pytest.mark.parametrize("io", ["float16", "float32"])
def test_every_layer_is_fp16_and_few_casts_are_left(io: str) -> None:
    model = build_network()
    half = to_half(model, io=io)
    kinds = types(half)
    for node in half.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Relu", "Add", "Mul", "Concat"):
            assert {kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    want = TensorProto.FLOAT16 if io == "float16" else TensorProto.FLOAT
    assert {kinds[v.name] for v in (*half.graph.input, *half.graph.output)} == {want}
    # Into and out of each of five softplus; with FP32 heads, the input and the class heads.
    assert len(casts(half)) == (10 if io == "float16" else 11)
    assert check_canonical(half) == SPEC
    assert [v.name for v in half.graph.output] == [v.name for v in model.graph.output]
    x = images(2)
    assert error(run(model, x), run(half, x.astype(io))) < 5e-3


def test_no_cast_follows_its_reverse() -> None:
    keep = ["n_res1", "n_res1_relu", "n_res2", "n_c3", "n_joined"]
    half = to_half(build_network(), keep)
    made = {node.output[0]: node for node in half.graph.node}
    for node in casts(half):
        assert getattr(made.get(node.input[0]), "op_type", "") != "Cast"
    kinds = types(half)
    for name in keep:
        node = next(n for n in half.graph.node if n.name == name)
        assert {kinds[i] for i in (*node.input, *node.output)} == {TensorProto.FLOAT}, name
    # Neighbours that both stay FP32 are joined without a cast.
    relu = next(n for n in half.graph.node if n.name == "n_res1_relu")
    assert made[relu.input[0]].name == "n_res1"


def test_kept_nodes_share_no_rounded_weights() -> None:
    model = build_network()
    half = to_half(model, ["n_cls_p3"])
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    node = next(n for n in half.graph.node if n.name == "n_cls_p3")
    assert after[node.input[1]].dtype == np.float32
    np.testing.assert_array_equal(after[node.input[1]], before["heads.cls_out.weight"])
    other = next(n for n in half.graph.node if n.name == "n_cls_p4")
    assert after[other.input[1]].dtype == np.float16


def test_what_ends_in_softplus_stays_fp32_and_what_does_not_is_fp16() -> None:
    assert fp32_tail(build_network()) == {f"n_reg_p{level}" for level in range(3, 8)}
    model = build_network()
    for node in model.graph.node:
        if node.op_type == "Softplus":
            node.op_type = "Relu"
    assert fp32_tail(model) == set()
    assert casts(to_half(model)) == []


def test_values_beyond_fp16_are_reported_and_refused() -> None:
    model = build_network()
    bias = next(t for t in model.graph.initializer if t.name == "backbone.blocks.1.a.bias")
    values = numpy_helper.to_array(bias).copy()
    values[3] = -1e6
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    (found,) = out_of_range(model)
    assert (found.tensor, found.largest, found.nodes) == (bias.name, 1e6, ("n_res1",))
    with pytest.raises(InvalidValueError, match=r"a\.bias does not fit into FP16.*keep n_res1"):
        to_half(model)
    half = to_half(model, ["n_res1"])
    stored = {t.name: numpy_helper.to_array(t) for t in half.graph.initializer}
    assert stored[bias.name][3] == -1e6


def test_constants_beyond_fp16_are_found_and_infinity_is_not_one() -> None:
    model = build_network()
    for name, value in (("big", 70000.0), ("infinite", -np.inf)):
        tensor = numpy_helper.from_array(np.float32(value))
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        model.graph.node.append(helper.make_node("Add", ["c3", name], [f"{name}_sum"], name=name))
    assert [(f.tensor, f.nodes) for f in out_of_range(model)] == [("big", ("big",))]


def test_bad_options() -> None:
    with pytest.raises(InvalidValueError, match="io must be float32 or float16"):
        to_half(build_network(), io="int8")
    with pytest.raises(InvalidValueError, match=r"no such node to keep \(got nothing"):
        to_half(build_network(), ["nothing"])


def test_the_model_given_stays_as_it_is() -> None:
    model = build_network()
    before = model.SerializeToString(deterministic=True)
    emulate_half(to_half(model, ["n_c3"]))
    assert model.SerializeToString(deterministic=True) == before


def test_emulation_rounds_where_onnxruntime_does_not() -> None:
    """Four convolutions in a row against NumPy, rounded after each; equal to the last bit."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(32, 32, 1, 1)) * 0.25).astype(np.float16)
    x = rng.normal(size=(1, 32, 8, 8)).astype(np.float16)
    source, nodes = "images", []
    for index in range(4):
        nodes.append(helper.make_node("Conv", [source, "w"], [f"c{index}"]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        source = f"r{index}"
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("images", half, x.shape)],
        [helper.make_tensor_value_info(source, half, x.shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    want = x.astype(np.float32)
    for _ in range(4):
        want = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0].astype(np.float32), want)
        want = np.maximum(want.astype(np.float16).astype(np.float32), 0)
    same = np.mean(run(emulate_half(model), x)[source] == want)
    plain = np.mean(run(model, x)[source] == want)
    # The order of additions decides a tie now and then.
    assert same > 0.999
    assert plain < 0.9


def test_sorting_keeps_an_order_that_is_right_and_finds_cycles() -> None:
    model = build_network()
    names = [node.name for node in model.graph.node]
    sort_nodes(model)
    assert [node.name for node in model.graph.node] == names
    backwards = list(reversed(model.graph.node))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in backwards]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    sort_nodes(model)
    onnx.checker.check_model(model)
    model.graph.node[0].input[0] = model.graph.output[0].name
    with pytest.raises(InvalidValueError, match="cycle"):
        sort_nodes(model)


@pytest.mark.parametrize("io", ["float16", "float32"])
def test_the_detector_runs_a_converted_file(tmp_path: Path, io: str) -> None:
    model, spec = load_canonical(SHIPPED)
    half = to_half(model, io=io)
    assert len(casts(half)) == (10 if io == "float16" else 11)
    save_model(half, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.55 * SHIPPED.stat().st_size
    rng = np.random.default_rng(0)
    frame = np.kron(rng.integers(0, 256, (12, 16, 3), np.uint8), np.ones((40, 40, 1), np.uint8))
    with OnnxRuntimeBackend(tmp_path / "half.onnx") as backend:
        heads = backend.infer(np.zeros((1, 3, spec.height, spec.width), np.float32))
    assert {head.dtype.name for head in heads} == {io}
    want, got = (Detector.load(p, conf=0.02)(frame) for p in (SHIPPED, tmp_path / "half.onnx"))
    assert abs(len(want) - len(got)) <= 2


def test_a_network_of_another_opset_and_fixed_batch(tmp_path: Path) -> None:
    model, _ = load_canonical(save(tmp_path / "m.onnx", build_network(opset=13, batch=2)))
    x = images(2)
    assert error(run(model, x), run(to_half(model, io="float32"), x)) < 5e-3
