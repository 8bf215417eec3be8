"""INT8: what is quantized, that TensorRT would take it, and that the checker sees what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.paths import ROOT
from tests.trt_afdet.engine.networks import SPEC, build_network, error, images, run, write_pictures
from trt_afdet.engine.onnx.model_file import load_canonical
from trt_afdet.engine.onnx.nms import check_canonical
from trt_afdet.engine.precision.calibration import Ranges, calibrate
from trt_afdet.engine.precision.check_qdq import check_quantized
from trt_afdet.engine.precision.placement import place
from trt_afdet.engine.precision.quantize import quantize
from trt_afdet.engine.precision.readback import of_model
from trt_afdet.engine.sample_pictures import open_pictures
from trt_afdet.errors import InvalidValueError, RunError

SHIPPED = ROOT / "trt_afdet" / "assets" / "model.onnx"


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> Ranges:
    model = build_network()
    pictures = open_pictures(write_pictures(tmp_path_factory.mktemp("pictures"), 16))
    return calibrate(model, SPEC, pictures, place(model).tensors, method="minmax")


@pytest.fixture(scope="module")
def quantized(ranges: Ranges) -> onnx.ModelProto:
    return quantize(build_network(), SPEC, ranges)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def before(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if tensor in n.output)


def test_placement_follows_the_rules() -> None:
    placement = place(build_network())
    assert placement.reasons == {
        "n_stem": "fewer than 16 channels",
        "n_se_down": "squeeze-and-excite",
        "n_se_up": "squeeze-and-excite",
        **{f"n_cls_p{level}": "last convolution of a head" for level in range(3, 8)},
        **{f"n_raw{level}": "last convolution of a head" for level in range(3, 8)},
    }
    assert {"n_dw", "n_pw", "n_res1", "n_res2", "n_c3", "n_up", "n_cls3"} <= set(placement.nodes)
    edges = {reader: tensor for tensor, reader in placement.edges}
    assert edges["n_res1"] == "pw"
    # The shortcut joins the kernel of the convolution it is added to.
    assert edges["n_residual"] == "pw"
    assert ("res2", "n_residual") not in placement.edges
    # Both are results of convolutions: the later one is fused, the earlier one the shortcut.
    assert edges["n_p3_sum"] == "p3_in"
    # Into SiLU and the gate goes floating point.
    assert not {"n_c3_sigmoid", "n_c3_silu", "n_excited", "n_pooled"} & set(edges)
    assert placement.groups == (frozenset({"left", "right", "joined"}),)
    assert {("left", "n_joined"), ("right", "n_joined")} <= placement.edges


@pytest.mark.parametrize(
    ("shape", "group", "reason"),
    [
        ((16, 16, 3, 3), 1, None),
        ((8, 16, 3, 3), 1, "fewer than 16 channels"),
        ((16, 8, 1, 1), 1, "fewer than 16 channels"),
        ((24, 1, 3, 3), 24, None),
        ((20, 1, 3, 3), 20, "depthwise with channels that 8 does not divide"),
        ((24, 1, 1, 1), 24, "depthwise of a kernel below 3"),
        ((64, 16, 3, 3), 4, None),
        ((64, 8, 3, 3), 8, "fewer than 16 channels"),
    ],
)
def test_convolutions_that_gain_nothing(
    shape: tuple[int, ...], group: int, reason: str | None
) -> None:
    ins = shape[1] * group
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=group),
        helper.make_node("Conv", ["y", "v"], ["z"], name="last"),
    ]
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), "w"),
        numpy_helper.from_array(np.ones((16, shape[0], 1, 1), np.float32), "v"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, ins, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        weights,
    )
    assert place(helper.make_model(graph)).reasons.get("conv") == reason


def test_kept_nodes_and_their_shortcuts_stay_float() -> None:
    placement = place(build_network(), {"n_res2", "n_c3", "n_joined"})
    assert placement.reasons["n_res2"] == placement.reasons["n_c3"] == "kept"
    readers = {reader for _, reader in placement.edges}
    assert not {"n_res2", "n_c3", "n_residual", "n_joined"} & readers
    assert placement.groups == ()


def test_the_graph_is_what_was_planned(quantized: onnx.ModelProto) -> None:
    assert check_canonical(quantized) == SPEC
    onnx.checker.check_model(quantized, full_check=True)
    ops = Counter(n.op_type for n in quantized.graph.node)
    placement = place(build_network())
    # A pair for each weight (the towers' are not shared) and for each tensor read through Q/DQ.
    assert ops["QuantizeLinear"] == len(placement.nodes) + len(placement.tensors)
    assert ops["QuantizeLinear"] == ops["DequantizeLinear"]
    for name in placement.nodes:
        for index in (0, 1):
            assert before(quantized, node(quantized, name).input[index]).op_type == (
                "DequantizeLinear"
            )
    for name in placement.reasons:
        assert node(quantized, name).input[0] in [
            *node(build_network(), name).input,
        ]
    assert {p.key for p in quantized.metadata_props} == {"trt_afdet.spec"}
    assert [e.domain for e in quantized.opset_import] == [""]


def test_weights_have_a_scale_per_output_channel(quantized: onnx.ModelProto) -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    for name, axis, channels in (("n_res1", 0, 32), ("n_dw", 0, 16), ("n_up", 1, 24)):
        pair = before(quantized, node(quantized, name).input[1])
        assert {a.name: a.i for a in pair.attribute}["axis"] == axis
        assert stored[pair.input[1]].shape == (channels,)
        weight = stored[before(quantized, pair.input[0]).input[0]]
        others = tuple(i for i in range(4) if i != axis)
        want = np.abs(weight).max(axis=others) / 127
        np.testing.assert_allclose(stored[pair.input[1]], want, rtol=0.02)


def test_activations_use_their_ranges_and_concatenations_share_one(
    quantized: onnx.ModelProto, ranges: Ranges
) -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}

    def scale(reader: str, index: int = 0) -> float:
        return float(stored[before(quantized, node(quantized, reader).input[index]).input[1]])

    limit = max(map(abs, ranges.tensors["stem_relu"]))
    assert scale("n_dw") == pytest.approx(limit / 127, rel=0.02)
    joined = {scale("n_joined", 0), scale("n_joined", 1), scale("n_p3_in")}
    assert len(joined) == 1
    widest = max(max(map(abs, ranges.tensors[n])) for n in ("left", "right", "joined"))
    assert joined.pop() == pytest.approx(widest / 127, rel=0.02)


@pytest.mark.parametrize("half", [False, True])
def test_int8_stays_near_fp32(ranges: Ranges, half: bool) -> None:
    model = build_network()
    result = quantize(model, SPEC, ranges, half_scales=half, io="float32")
    x = images(2)
    assert 1e-4 < error(run(model, x), run(result, x)) < 0.1
    rest = "HALF" if half else "FLOAT"
    assert of_model(result).groups()["head/cls"] == {"INT8": 5, rest: 5}


def test_fp16_scales_need_no_cast_after_dequantizing(ranges: Ranges) -> None:
    model = quantize(build_network(), SPEC, ranges, half_scales=True, io="float16")
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    stored = {t.name: t.data_type for t in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert pairs
    assert {kinds[n.output[0]] for n in pairs} == {TensorProto.FLOAT16}
    assert {stored[n.input[1]] for n in pairs} == {TensorProto.FLOAT16}
    assert {stored[n.input[2]] for n in pairs} == {TensorProto.INT8}
    assert sum(n.op_type == "Cast" for n in model.graph.node) == 10
    assert max(e.version for e in model.opset_import) == 19
    x = images(1).astype(np.float16)
    assert error(run(build_network(), images(1)), run(model, x)) < 0.1


def test_dead_channels_have_a_scale_above_zero(ranges: Ranges) -> None:
    model = build_network()
    weight = next(t for t in model.graph.initializer if t.name == "backbone.blocks.1.a.weight")
    values = numpy_helper.to_array(weight).copy()
    values[4] = 0
    values[5] *= 1e-9
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    result = quantize(model, SPEC, ranges, half_scales=True)
    x = images(1)
    assert error(run(model, x), run(result, x)) < 0.1


def test_a_kept_block_gets_unrounded_input(ranges: Ranges) -> None:
    """The library hands the quantized tensor to every reader; a kept one must not see it."""
    keep = {"n_res1", "n_res2"}
    model = quantize(build_network(), SPEC, ranges, keep=keep)
    assert node(model, "n_res1").input[0] == "pw"
    assert list(node(model, "n_residual").input) == ["res2", "pw"]


def test_a_node_kept_in_fp32_beside_int8(ranges: Ranges) -> None:
    model = build_network()
    result = quantize(model, SPEC, ranges, half_scales=True, keep_fp32={"n_res1", "n_res1_relu"})
    kinds = {t.name: t.data_type for t in result.graph.initializer}
    assert kinds[node(result, "n_res1").input[1]] == TensorProto.FLOAT
    assert error(run(model, images(1)), run(result, images(1))) < 0.1


def test_what_cannot_be_quantized(ranges: Ranges) -> None:
    model = build_network()
    everything = {n.name for n in model.graph.node}
    with pytest.raises(InvalidValueError, match="no convolution is left"):
        quantize(model, SPEC, ranges, keep=everything)
    few = Ranges("", "minmax", {"pw": (0, 1)}, 16, 0)
    with pytest.raises(InvalidValueError, match="no range of a tensor"):
        quantize(model, SPEC, few)
    with pytest.raises(InvalidValueError, match=r"opset 19 \(got opset 13\)"):
        quantize(build_network(opset=13), SPEC, ranges, half_scales=True)


def test_quantizing_leaves_the_model_and_says_nothing(
    ranges: Ranges, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = build_network()
    data = model.SerializeToString(deterministic=True)
    quantize(model, SPEC, ranges)
    assert model.SerializeToString(deterministic=True) == data
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not caplog.records


def _wrong_axis(model: onnx.ModelProto) -> None:
    pair = before(model, node(model, "n_res1").input[1])
    for near in (pair, before(model, pair.input[0])):
        next(a for a in near.attribute if a.name == "axis").i = 1


def _per_tensor_weight(model: onnx.ModelProto) -> None:
    pair = before(model, node(model, "n_res1").input[1])
    _store(model, pair.input[1], np.float32(0.01))
    _store(model, pair.input[2], np.int8(0))


def _store(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def _activation_pair(model: onnx.ModelProto) -> onnx.NodeProto:
    return before(model, node(model, "n_res1").input[0])


def _zero_point(model: onnx.ModelProto) -> None:
    _store(model, _activation_pair(model).input[2], np.int8(3))


def _unsigned(model: onnx.ModelProto) -> None:
    _store(model, _activation_pair(model).input[2], np.uint8(0))


def _no_zero_point(model: onnx.ModelProto) -> None:
    del _activation_pair(model).input[2]


def _no_scale(model: onnx.ModelProto) -> None:
    _store(model, _activation_pair(model).input[1], np.float32(0))


def _infinite_scale(model: onnx.ModelProto) -> None:
    _store(model, _activation_pair(model).input[1], np.float32(np.inf))


def _other_scale(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.float32(0.5), "other")
    model.graph.initializer.append(tensor)
    _activation_pair(model).input[1] = "other"


def _group(model: onnx.ModelProto) -> None:
    pair = before(model, node(model, "n_joined").input[0])
    _store(model, pair.input[1], np.float32(0.5))


def _bypass(model: onnx.ModelProto) -> None:
    node(model, "n_res1").input[0] = "pw"


def _bypass_weight(model: onnx.ModelProto) -> None:
    node(model, "n_res1").input[1] = "backbone.blocks.1.a.weight"


def _unplanned(model: onnx.ModelProto) -> None:
    node(model, "n_pooled").input[0] = _activation_pair(model).output[0]


def _bias(model: onnx.ModelProto) -> None:
    reader = node(model, "n_res1")
    pair = before(model, reader.input[1])
    quantized = helper.make_node(
        "QuantizeLinear", [reader.input[2], *pair.input[1:]], ["bias_q"], name="bias_q", axis=0
    )
    back = helper.make_node(
        "DequantizeLinear", ["bias_q", *pair.input[1:]], ["bias_dq"], name="bias_dq", axis=0
    )
    model.graph.node.extend([quantized, back])
    reader.input[2] = "bias_dq"


def _cast(model: onnx.ModelProto) -> None:
    pair = _activation_pair(model)
    model.graph.node.append(
        helper.make_node("Cast", [pair.output[0]], ["cast"], name="cast", to=TensorProto.FLOAT16)
    )


def _output(model: onnx.ModelProto) -> None:
    value = helper.make_tensor_value_info(
        _activation_pair(model).output[0], TensorProto.FLOAT, None
    )
    model.graph.output.append(value)


def _domain(model: onnx.ModelProto) -> None:
    _activation_pair(model).domain = "com.microsoft"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_wrong_axis, "n_res1 has weight scales along axis 1, not 0"),
        (_per_tensor_weight, "n_res1 has weight scales along axis None, not 0"),
        (_zero_point, "zero point that is not int8 zero"),
        (_unsigned, "zero point that is not int8 zero"),
        (_no_zero_point, "has no stored scale and zero point"),
        (_no_scale, "scale that is not above zero"),
        (_infinite_scale, "scale that is not above zero"),
        (_other_scale, "other parameters than its QuantizeLinear"),
        (_group, "does not share the scale of its concatenation"),
        (_bypass, "n_res1 reads pw, which is not quantized"),
        (_bypass_weight, "n_res1 has weights that are not quantized"),
        (_unplanned, "n_pooled reads pw, which is quantized unplanned"),
        (_bias, r"n_res1 has quantized input 2 \(backbone.blocks.1.a.bias\)"),
        (_cast, "is followed by a cast"),
        (_output, "is an output of the network"),
        (_domain, "is of the domain com.microsoft"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_checker_sees(
    quantized: onnx.ModelProto, damage: Callable[[onnx.ModelProto], None], message: str
) -> None:
    placement = place(build_network())
    check_quantized(quantized, placement)
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    damage(model)
    with pytest.raises(RunError, match=message):
        check_quantized(model, placement)


def test_the_shipped_model() -> None:
    model, spec = load_canonical(SHIPPED)
    placement = place(model)
    any_range = Ranges("", "minmax", dict.fromkeys(placement.tensors, (-8.0, 8.0)), 16, 0)
    result = quantize(model, spec, any_range, half_scales=True, io="float16")
    assert len(placement.nodes) == 119
    assert Counter(placement.reasons.values()) == {
        "last convolution of a head": 10,
        "fewer than 16 channels": 1,
    }
    assert sum(n.op_type == "Cast" for n in result.graph.node) == 10
