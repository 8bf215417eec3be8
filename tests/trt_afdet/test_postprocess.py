"""Decode + NMS against torchvision's operators and against a slow plain reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trt_afdet import postprocess_reference as reference
from trt_afdet.errors import InvalidValueError
from trt_afdet.geometry import Letterbox
from trt_afdet.postprocess import (
    check_heads,
    decode_level,
    logit_threshold,
    nms,
    postprocess,
    select_candidates,
    sigmoid,
)
from trt_afdet.spec import ModelSpec

Heads = list[npt.NDArray[np.float32]]


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


def one(heads: Heads) -> Heads:
    return [head[0] for head in heads]


def check_against_reference(heads: Heads, spec: ModelSpec) -> int:
    """Bit for bit; returns how many there are."""
    got = postprocess(heads, spec)[0]
    want = reference.detect(one(heads), spec)
    assert len(got) == len(want)
    boxes = np.array([c[4] for c in want], np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(got.xyxy, boxes)
    assert got.class_id.tolist() == [c[3] for c in want]
    np.testing.assert_array_equal(got.confidence, sigmoid([c[0] for c in want]))
    return len(got)


def torchvision_fcos(heads: Heads, spec: ModelSpec) -> tuple[torch.Tensor, ...]:
    """FCOS' post-processing with torchvision's operators: boxes, scores, labels."""
    boxes, scores, labels = [], [], []
    count = len(spec.strides)
    for level, stride in enumerate(spec.strides):
        cls, reg = (torch.from_numpy(heads[i][0]) for i in (level, count + level))
        width = cls.shape[2]
        flat = torch.sigmoid(cls.permute(1, 2, 0).reshape(-1))
        above = torch.where(flat > spec.score_threshold)[0]
        best, order = flat[above].topk(min(spec.candidates_per_level, len(above)))
        point = above[order] // spec.num_classes
        x, y = (point % width + 0.5) * stride, (point // width + 0.5) * stride
        d = reg.reshape(4, -1)[:, point] * (spec.regression_scale * stride)
        box = torch.stack([x - d[0], y - d[1], x + d[2], y + d[3]], 1)
        boxes.append(torchvision.ops.clip_boxes_to_image(box, (spec.height, spec.width)))
        scores.append(best)
        labels.append(above[order] % spec.num_classes)
    b, s, c = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    groups = torch.zeros_like(c) if spec.class_agnostic else c
    keep = torchvision.ops.batched_nms(b, s, groups, spec.nms_iou)[: spec.max_detections]
    return b[keep], s[keep], c[keep]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(
    ("classes", "mean", "seed"), [(1, -1.0, 0), (3, -3.0, 1), (20, -5.0, 2), (80, -6.0, 3)]
)
def test_equals_torchvision(classes: int, mean: float, seed: int, agnostic: bool) -> None:
    spec = make_spec(classes, 256, 384, class_agnostic=agnostic, candidates_per_level=300)
    heads = make_heads(spec, seed, mean)
    got = postprocess(heads, spec)[0]
    boxes, scores, labels = torchvision_fcos(heads, spec)
    assert len(got) == len(boxes) == 100
    np.testing.assert_allclose(got.xyxy, boxes.numpy(), atol=1e-3)
    np.testing.assert_allclose(got.confidence, scores.numpy(), rtol=1e-6)
    assert got.class_id.tolist() == labels.tolist()


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("limit", [3, 50, 1000])
def test_equals_plain_reference(limit: int, agnostic: bool) -> None:
    spec = make_spec(candidates_per_level=limit, class_agnostic=agnostic)
    assert check_against_reference(make_heads(spec, limit), spec) > 3


def test_ties_are_broken_by_level_point_and_class() -> None:
    """Logits of four values and equal boxes: nothing but the total order decides."""
    spec = make_spec(candidates_per_level=40, max_detections=60)
    heads = make_heads(spec, 5)
    for logits in heads[:5]:
        np.round(logits, out=logits).clip(-3, 0, out=logits)
    assert check_against_reference(heads, spec) == 60
    for distances in heads[5:]:
        distances[:] = 1.0
    assert check_against_reference(heads, spec) > 10


def test_all_equal_logits_keep_the_first_points() -> None:
    logits = np.zeros((2, 3, 4), np.float32)
    logits[1, 0, 0] = -0.0  # The same logit as 0.0, so the order stays.
    values, point, class_id = select_candidates(logits, np.float32(-1), 5)
    assert values.tolist() == [0.0] * 5
    assert point.tolist() == [0, 0, 1, 1, 2]
    assert class_id.tolist() == [0, 1, 0, 1, 0]


EXTREMES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, -1.0]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_input_equals_plain_reference(data: st.DataObject) -> None:
    spec = make_spec(
        2,
        128,
        data.draw(st.sampled_from([128, 256])),
        score_threshold=data.draw(st.sampled_from([0.0, 0.05, 0.5, 0.999, 1.0])),
        nms_iou=data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0])),
        candidates_per_level=data.draw(st.sampled_from([1, 7, 1000])),
        max_detections=data.draw(st.sampled_from([1, 20, 1000])),
        class_agnostic=data.draw(st.booleans()),
    )
    seed = data.draw(st.integers(0, 2**32 - 1))
    heads = make_heads(
        spec,
        seed,
        mean=data.draw(st.sampled_from([-30.0, -4.0, -1.0])),
        spread=data.draw(st.sampled_from([0.0, 1.5])),  # 0: all logits are equal.
    )
    reach = data.draw(st.sampled_from([0.0, 0.1, 1.0, 1e4]))
    heads[5:] = [head * np.float32(reach) for head in heads[5:]]
    rng = np.random.default_rng(seed)
    share = data.draw(st.sampled_from([0.0, 0.1, 0.6]))
    for head in heads:
        strange = rng.random(head.shape) < share
        head[strange] = rng.choice(np.array(EXTREMES, np.float32), int(strange.sum()))
    if data.draw(st.booleans()):
        with np.errstate(over="ignore"):
            heads = [head.astype(np.float16) for head in heads]
    check_against_reference(heads, spec)


def test_threshold_is_on_the_logit_and_strict() -> None:
    threshold = logit_threshold(0.3)
    rounded = float(np.float32(0.3))  # As the native code and the plugin's attribute have it.
    assert threshold == np.float32(math.log(rounded / (1 - rounded)))
    above = np.nextafter(threshold, np.float32(9))
    logits = np.array([threshold, above], np.float32).reshape(1, 1, 2)
    values, point, _ = select_candidates(logits, threshold, 10)
    assert values.tolist() == [float(above)]
    assert point.tolist() == [1]


def test_threshold_zero_admits_all_but_minus_infinity_and_nan() -> None:
    logits = np.array([-math.inf, math.nan, -3e38, math.inf], np.float32).reshape(1, 2, 2)
    values, point, _ = select_candidates(logits, logit_threshold(0), 10)
    assert point.tolist() == [3, 2]
    assert values[0] == math.inf


def test_threshold_one_admits_nothing() -> None:
    spec = make_spec(score_threshold=1.0)
    heads = make_heads(spec)
    heads[0][:] = math.inf
    assert len(postprocess(heads, spec)[0]) == 0


def test_infinite_logit_is_the_best_and_certain() -> None:
    spec = make_spec()
    heads = make_heads(spec)
    heads[2][0, 1, 1, 2] = math.inf
    best = postprocess(heads, spec)[0][0]
    assert (best.class_id, best.confidence) == (1, 1.0)


def test_decode_by_hand() -> None:
    """Level 4 (stride 16), row 2, column 3: point (56, 40); one unit is 4 * 16 = 64 px."""
    spec = make_spec()
    cls = np.full((3, 8, 16), -9.0, np.float32)
    cls[2, 2, 3] = 1.0
    reg = np.full((4, 8, 16), 5.0, np.float32)
    reg[:, 2, 3] = [0.25, 0.5, 1.0, 0.125]
    found = decode_level(cls, reg, spec, 1)
    assert found.boxes.tolist() == [[40.0, 8.0, 120.0, 48.0]]
    assert (found.class_id.tolist(), found.logits.tolist()) == ([2], [1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_boxes_that_are_not_finite_or_empty_are_dropped(bad: float) -> None:
    spec = make_spec()
    heads = make_heads(spec, mean=-20)
    heads[0][0, 0, 4, 4:7] = 3.0
    heads[5][0, :, 4, 4] = [1, bad, 1, 1]
    heads[5][0, :, 4, 5] = 0
    heads[5][0, :, 4, 6] = 1
    found = postprocess(heads, spec)[0]
    assert found.xyxy.tolist() == [[20.0, 4.0, 84.0, 68.0]]


def test_half_precision_heads_equal_their_values_in_single() -> None:
    spec = make_spec()
    half = [head.astype(np.float16) for head in make_heads(spec)]
    single = [head.astype(np.float32) for head in half]
    a, b = postprocess(half, spec)[0], postprocess(single, spec)[0]
    assert len(a) > 10
    np.testing.assert_array_equal(a.xyxy, b.xyxy)
    np.testing.assert_array_equal(a.confidence, b.confidence)


def test_batch_equals_one_by_one() -> None:
    spec = make_spec()
    heads = make_heads(spec, batch=3)
    together = postprocess(heads, spec)
    for index, found in enumerate(together):
        alone = postprocess([head[index : index + 1] for head in heads], spec)[0]
        np.testing.assert_array_equal(found.xyxy, alone.xyxy)


def test_heads_by_name_and_an_empty_batch() -> None:
    spec = make_spec()
    heads = make_heads(spec)
    named = dict(zip(spec.output_names, heads, strict=True))
    np.testing.assert_array_equal(
        postprocess(named, spec)[0].xyxy, postprocess(heads, spec)[0].xyxy
    )
    assert postprocess([head[:0] for head in heads], spec) == []


@pytest.mark.parametrize("agnostic", [False, True])
def test_classes_equal_heads_without_the_others(agnostic: bool) -> None:
    spec = make_spec(6, class_agnostic=agnostic, candidates_per_level=30)
    heads = make_heads(spec)
    got = postprocess(heads, spec, classes=[4, 1])[0]
    for logits in heads[:5]:
        logits[:, [0, 2, 3, 5]] = -math.inf
    want = postprocess(heads, spec)[0]
    assert len(got) > 10
    np.testing.assert_array_equal(got.xyxy, want.xyxy)
    assert got.class_id.tolist() == want.class_id.tolist()


def test_letterbox_maps_to_the_frame_and_drops_what_lies_in_the_border() -> None:
    spec = make_spec()  # 256 x 128
    placement = Letterbox.fit(200, 200, 128, 256)  # 128 x 128 in the middle: x 64..192.
    heads = make_heads(spec, mean=-20)
    heads[0][0, 0, 8, 8] = 3.0  # Point (68, 68).
    heads[5][0, :, 8, 8] = [0.125, 0.125, 0.875, 0.875]  # 64..96
    heads[0][0, 0, 8, 2] = 2.0  # Point (20, 68): a box of 8 px in the border.
    heads[5][0, :, 8, 2] = 0.125
    assert len(postprocess(heads, spec)[0]) == 2
    found = postprocess(heads, spec, [placement])[0]
    np.testing.assert_allclose(found.xyxy, [[0, 100, 50, 150]], atol=1e-4)


def test_heads_that_do_not_fit_name_the_output() -> None:
    spec = make_spec()
    heads = make_heads(spec)
    named = dict(zip(spec.output_names, heads, strict=True))
    del named["reg_p4"]
    with pytest.raises(InvalidValueError, match="reg_p4 is missing"):
        check_heads(named, spec)
    with pytest.raises(InvalidValueError, match=r"cls_p5.*got \[1, 2, 4, 8\]"):
        check_heads([h[:, :2] if i == 2 else h for i, h in enumerate(heads)], spec)
    with pytest.raises(InvalidValueError, match="10 outputs"):
        check_heads(heads[:9], spec)


def random_boxes(count: int, seed: int, step: float = 0.0) -> npt.NDArray[np.float32]:
    """Boxes of a crowd; with a step their corners lie on a grid, so that overlaps tie."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 200, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(8, 120, (count, 2))], 1)
    return (np.round(boxes / step) * step if step else boxes).astype(np.float32)


@pytest.mark.parametrize("step", [0.0, 8.0])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 511, 513, 2000])
@pytest.mark.parametrize("iou", [0.0, 0.25, 0.5, 1.0])
def test_nms_equals_torchvision(count: int, step: float, iou: float) -> None:
    """iou values that are exact in float32: torchvision compares with a double."""
    boxes = random_boxes(count, count, step)
    scores = torch.arange(count, 0, -1, dtype=torch.float32)
    want = torchvision.ops.nms(torch.from_numpy(boxes), scores, iou)
    assert nms(boxes, None, iou).tolist() == want.tolist()


@pytest.mark.parametrize("classes", [1, 2, 7, 80])
def test_nms_per_class_equals_nms_of_each_class(classes: int) -> None:
    boxes = random_boxes(1500, classes)
    class_id = np.random.default_rng(classes).integers(0, classes, 1500)
    want: list[int] = []
    for one_class in range(classes):
        members = np.flatnonzero(class_id == one_class)
        scores = torch.arange(len(members), 0, -1, dtype=torch.float32)
        kept = torchvision.ops.nms(torch.from_numpy(boxes[members]), scores, 0.5)
        want += members[kept.numpy()].tolist()
    assert nms(boxes, class_id, 0.5).tolist() == sorted(want)
    assert nms(boxes, class_id, 0.5, 25).tolist() == sorted(want)[:25]


def test_nms_of_a_chain_is_greedy() -> None:
    """Each box removes the next one only: every second stays, the longest way to the fixpoint."""
    left = np.arange(300, dtype=np.float32) * 3
    zero, ten = np.zeros(300), np.full(300, 10)
    boxes = np.stack([left, zero, left + 10, ten], 1)  # IoU 7/13 with the next, 4/16 after.
    assert nms(boxes, None, 0.5).tolist() == list(range(0, 300, 2))


def test_nms_of_boxes_whose_area_vanishes() -> None:
    """Areas that underflow to zero: 0 / 0 is above no threshold."""
    tiny = np.float32(1e-30)
    boxes = np.array([[0, 0, tiny, tiny]] * 3, np.float32)
    assert nms(boxes, None, 0.5).tolist() == [0, 1, 2]


def test_sigmoid_equals_torch_and_takes_infinities() -> None:
    values = np.concatenate([np.linspace(-110, 110, 2001), [-math.inf, math.inf, -1e4, 1e4]])
    got = sigmoid(values)
    want = torch.sigmoid(torch.from_numpy(values)).numpy().astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[-4:].tolist() == [0.0, 1.0, 0.0, 1.0]
