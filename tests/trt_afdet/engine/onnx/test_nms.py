"""NMS added to canonical models: the portable form computes what postprocess does, bit for bit."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.trt_afdet.onnx_models import SPEC, build_model
from tests.trt_afdet.portable import run_portable
from trt_afdet.engine.onnx.nms import add_nms, check_canonical
from trt_afdet.errors import InvalidValueError
from trt_afdet.interface import DETECTION_NAMES, NMS_KEY
from trt_afdet.postprocess import decode_and_suppress, sigmoid
from trt_afdet.spec import METADATA_KEY, ModelSpec

Heads = list[npt.NDArray[Any]]

LOOPS = pytest.mark.parametrize("loop", [False, True], ids=["operator", "loop"])


def make_spec(classes: int = 3, height: int = 128, width: int = 256, **changes: Any) -> ModelSpec:
    names = tuple(f"class{i}" for i in range(classes))
    return ModelSpec(name="test", class_names=names, height=height, width=width, **changes)


def make_heads(
    spec: ModelSpec, seed: int = 0, mean: float = -3.0, spread: float = 1.5, batch: int = 1
) -> Heads:
    rng = np.random.default_rng(seed)
    logits = [rng.normal(mean, spread, (batch, spec.num_classes, *g)) for g in spec.grid_sizes]
    distances = [rng.uniform(0, 2, (batch, 4, *g)) for g in spec.grid_sizes]
    return [h.astype(np.float32) for h in (*logits, *distances)]


def check(heads: Heads, spec: ModelSpec, loop: bool = False) -> list[int]:
    """Against the NumPy reference, image by image; returns how many there are in each."""
    count, boxes, scores, classes = run_portable(heads, spec, loop=loop)
    batch, most = len(heads[0]), spec.max_detections
    assert [(a.shape, a.dtype) for a in (count, boxes, scores, classes)] == [
        ((batch, 1), np.int32),
        ((batch, most, 4), np.float32),
        ((batch, most), np.float32),
        ((batch, most), np.int32),
    ]
    for image in range(batch):
        want = decode_and_suppress([head[image] for head in heads], spec)
        n = len(want.logits)
        assert count[image, 0] == n
        np.testing.assert_array_equal(classes[image, :n], want.class_id)
        np.testing.assert_array_equal(boxes[image, :n], want.boxes)
        np.testing.assert_allclose(scores[image, :n], sigmoid(want.logits), rtol=1e-5, atol=1e-38)
        assert not boxes[image, n:].any()
        assert not scores[image, n:].any()
        assert (classes[image, n:] == -1).all()
    return [int(n) for n in count[:, 0]]


EXTREMES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, -1.0]


@LOOPS
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_heads_equal_the_reference(loop: bool, data: st.DataObject) -> None:
    spec = make_spec(
        data.draw(st.sampled_from([1, 2, 5])),
        128,
        data.draw(st.sampled_from([128, 256])),
        score_threshold=data.draw(st.sampled_from([0.0, 0.05, 0.5, 0.999, 1.0])),
        nms_iou=data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0])),
        candidates_per_level=data.draw(st.sampled_from([1, 7, 1000])),
        max_detections=data.draw(st.sampled_from([1, 20, 3000])),
        class_agnostic=data.draw(st.booleans()),
    )
    seed = data.draw(st.integers(0, 2**32 - 1))
    heads = make_heads(
        spec,
        seed,
        mean=data.draw(st.sampled_from([-100.0, -30.0, -4.0, -1.0])),
        spread=data.draw(st.sampled_from([0.0, 1.5])),  # 0: all logits are equal.
        batch=data.draw(st.integers(1, 4)),
    )
    reach = data.draw(st.sampled_from([0.0, 0.1, 1.0, 1e4]))
    heads[5:] = [head * np.float32(reach) for head in heads[5:]]
    rng = np.random.default_rng(seed)
    share = data.draw(st.sampled_from([0.0, 0.1, 0.6]))
    for head in heads:
        strange = rng.random(head.shape) < share
        head[strange] = rng.choice(np.array(EXTREMES, np.float32), int(strange.sum()))
    if data.draw(st.booleans()):  # Many ties, and overlaps of exactly the threshold.
        with np.errstate(over="ignore"):
            heads = [np.round(head * 2) / 2 for head in heads]
    if data.draw(st.booleans()):
        with np.errstate(over="ignore"):
            heads = [head.astype(np.float16) for head in heads]
    check(heads, spec, loop)


@LOOPS
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("classes", "mean"), [(1, -1.0), (20, -4.0), (80, -5.0), (1000, -7.0)])
def test_dense_frames_of_many_classes(
    classes: int, mean: float, agnostic: bool, loop: bool
) -> None:
    """Thousands of candidates, not square, full levels beside levels with room."""
    spec = make_spec(classes, 256, 384, class_agnostic=agnostic)
    heads = make_heads(spec, classes, mean, batch=2)
    assert check(heads, spec, loop) == [100, 100]


@LOOPS
def test_ties_are_broken_by_level_point_and_class(loop: bool) -> None:
    spec = make_spec(candidates_per_level=40, max_detections=60)
    heads = make_heads(spec, 5)
    for logits in heads[:5]:
        np.round(logits, out=logits).clip(-3, 0, out=logits)
    assert check(heads, spec, loop) == [60]
    for head in heads:
        head[:] = 1.0
    assert check(heads, spec, loop)[0] > 10


@LOOPS
def test_a_chain_takes_the_most_passes(loop: bool) -> None:
    """Each box overlaps its neighbours only, in order of rank: one is settled after the other."""
    spec = make_spec(1, 128, 3072, nms_iou=0.3, max_detections=300)
    heads = make_heads(spec, mean=-20)
    heads[0][0, 0, 8] = np.linspace(4, 1, 384)
    heads[5][:] = 8 / 32  # 16 px wide, 8 px apart: IoU 1/3.
    assert check(heads, spec, loop) == [192]


@LOOPS
def test_late_settled_boxes_keep_their_rank(loop: bool) -> None:
    """The third best is free once the best has removed the second; plenty of others are at once."""
    spec = make_spec(1, 128, 3072, nms_iou=0.3, max_detections=20)
    heads = make_heads(spec, mean=-20)
    row = heads[0][0, 0, 8]
    row[:3] = [4.0, 3.9, 3.8]
    row[10:130:4] = np.linspace(3, 2, 30)
    heads[5][:] = 8 / 32
    assert check(heads, spec, loop) == [20]


@LOOPS
def test_images_of_one_batch_do_not_touch_each_other(loop: bool) -> None:
    """One empty, one with a single box, one full: the slowest decides when a loop ends."""
    spec = make_spec()
    heads = make_heads(spec, batch=3)
    for logits in heads[:5]:
        logits[:2] = -20
    heads[2][1, 2, 3, 4] = 1.0
    assert check(heads, spec, loop) == [0, 1, 100]
    assert check([head[:2] for head in heads], spec, loop) == [0, 1]


@LOOPS
def test_more_rows_than_candidates_are_padded(loop: bool) -> None:
    spec = make_spec(candidates_per_level=3, max_detections=50)
    assert 5 < check(make_heads(spec, batch=2), spec, loop)[0] <= 15


@LOOPS
def test_small_scores_are_precise(loop: bool) -> None:
    """Where runtimes' own sigmoid gives 0 or 1e-8 for everything."""
    spec = make_spec(1, score_threshold=0.0, candidates_per_level=100, nms_iou=1.0)
    heads = make_heads(spec, mean=-60, spread=15)
    check(heads, spec, loop)


@LOOPS
def test_opsets(loop: bool) -> None:
    images = np.random.default_rng(0).normal(0, 1, (2, 3, 256, 384)).astype(np.float32)
    results = []
    for opset in (17, 18, 19, 21):
        model = add_nms(build_model(opset=opset), "onnx", loop=loop)
        assert [entry.version for entry in model.opset_import] == [opset]
        session = onnxruntime.InferenceSession(model.SerializeToString())
        results.append(session.run(None, {"images": images}))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("form", ["plugin", "onnx", "none"])
@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("half", [False, True])
def test_what_every_form_keeps(form: str, batch: int | str, half: bool) -> None:
    model = build_model(batch=batch, half=half)
    before = model.SerializeToString()
    result = add_nms(model, form)
    assert model.SerializeToString() == before
    metadata = {entry.key: entry.value for entry in result.metadata_props}
    assert metadata == {METADATA_KEY: SPEC.to_json(), NMS_KEY: form}
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.node)[: len(model.graph.node)] == list(model.graph.node)
    if form == "none":
        assert list(result.graph.output) == list(model.graph.output)
        assert add_nms(result, "onnx").graph.output[0].name == "num_detections"
        return
    most = SPEC.max_detections
    tails = [[1], [most, 4], [most], [most]]
    kinds = [onnx.TensorProto.INT32, 1, 1, onnx.TensorProto.INT32]
    want = [
        helper.make_tensor_value_info(name, kind, [batch, *tail])
        for name, kind, tail in zip(DETECTION_NAMES, kinds, tails, strict=True)
    ]
    assert list(result.graph.output) == want


def test_the_plugin_form_is_one_node_that_says_all() -> None:
    spec = SPEC.replace(class_agnostic=True, nms_iou=0.25, regression_scale=2.0, score_threshold=0)
    model = build_model(spec)
    result = add_nms(model, "plugin")
    (node,) = list(result.graph.node)[len(model.graph.node) :]
    assert (node.op_type, node.domain) == ("AfdetDecodeNMS", "trt_afdet")
    assert list(node.input) == [f"{kind}_p{n}" for kind in ("cls", "reg") for n in range(3, 8)]
    assert list(node.output) == list(DETECTION_NAMES)
    kinds = onnx.AttributeProto
    want = {
        "height": (kinds.INT, 256),
        "width": (kinds.INT, 384),
        "strides": (kinds.INTS, [8, 16, 32, 64, 128]),
        "regression_scale": (kinds.FLOAT, 2.0),
        "score_threshold": (kinds.FLOAT, 0.0),
        "candidates_per_level": (kinds.INT, 1000),
        "nms_iou": (kinds.FLOAT, 0.25),
        "class_agnostic": (kinds.INT, 1),
        "max_detections": (kinds.INT, 100),
        "plugin_version": (kinds.STRING, b"1"),
        "plugin_namespace": (kinds.STRING, b""),
    }
    got = {a.name: (a.type, helper.get_attribute_value(a)) for a in node.attribute}
    assert got == want
    assert {e.domain: e.version for e in result.opset_import} == {"": 17, "trt_afdet": 1}
    # There are 32 x 48 points of 3 classes: asking for more than all of them is not an error.
    everything = add_nms(build_model(spec.replace(candidates_per_level=2**30)), "plugin")
    attributes = {
        a.name: helper.get_attribute_value(a) for a in everything.graph.node[-1].attribute
    }
    assert attributes["candidates_per_level"] == 32 * 48 * 3


def _without_output_type() -> onnx.ModelProto:
    model = build_model()
    model.graph.output[3].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return model


def _newer_form() -> onnx.ModelProto:
    model = build_model()
    model.metadata_props.add(key=NMS_KEY, value="soft")
    return model


def _unmarked(form: str) -> onnx.ModelProto:
    """NMS was added, but the metadata does not say so."""
    model = add_nms(build_model(), form)
    del model.metadata_props[1]
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_model(metadata=None), "is not a trt-afdet model"),
        (lambda: build_model(metadata="{"), "spec is not JSON"),
        (lambda: build_model(input_name="x"), "input must be 'images'"),
        (lambda: build_model(input_size=(256, 256)), "'images' does not fit"),
        (lambda: build_model(classes=5), "'cls_p3' does not fit.*got .N, 5, 32, 48"),
        (lambda: build_model(drop="reg_p6"), "output 'reg_p6' of the spec is missing"),
        (lambda: add_nms(build_model(), "onnx"), r"already ends in NMS \(got onnx\)"),
        (lambda: add_nms(build_model(), "plugin"), r"already ends in NMS \(got plugin\)"),
        (lambda: _unmarked("onnx"), r"already ends in NMS \(got num_detections"),
        (_without_output_type, r"'reg_p4' must be float32 or float16 \(got double"),
        (_newer_form, "trt_afdet.nms must be one of"),
        (onnx.ModelProto, "is not a trt-afdet model"),
    ],
)
@pytest.mark.parametrize("form", ["plugin", "onnx", "none"])
def test_what_is_not_canonical_is_refused(
    make: Callable[[], onnx.ModelProto], message: str, form: str
) -> None:
    model = make()
    before = model.SerializeToString()
    with pytest.raises(InvalidValueError, match=message) as caught:
        add_nms(model, form, file="dir/m.onnx")
    assert str(caught.value).startswith("dir/m.onnx")
    assert "\n" not in str(caught.value)
    assert model.SerializeToString() == before


def test_unknown_forms_old_opsets_and_broken_graphs_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"plugin, onnx, none \(got soft\)"):
        add_nms(build_model(), "soft")
    with pytest.raises(InvalidValueError, match="opset 17 or newer"):
        add_nms(build_model(opset=13), "onnx")
    broken = build_model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InvalidValueError, match=r"not a valid ONNX model.*NoSuchOperator"):
        add_nms(broken, "onnx")
    assert check_canonical(build_model()) == SPEC


def test_without_onnx_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["onnx"] = None
from trt_afdet.engine.onnx.nms import add_nms
from trt_afdet.errors import MissingDependencyError
try:
    add_nms(object(), "onnx")
except MissingDependencyError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "trt-afdet[onnx]"' in result.stdout, result.stderr
