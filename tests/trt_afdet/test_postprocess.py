"""NumPy decode + NMS against torchvision's operators and against plain Python loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
import torch
from heads import Heads, make_spec, random_heads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.geometry import Letterbox
from trt_afdet.postprocess import decode_and_suppress, logit_threshold, nms, postprocess, sigmoid
from trt_afdet.spec import ModelSpec

Triple = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def fcos_style(heads: Heads, spec: ModelSpec) -> Triple:
    """torchvision's way for one image: sigmoid, per-level topk, batched_nms, all in FP32."""
    count = len(spec.strides)
    boxes, scores, labels = [], [], []
    for cls, reg, stride in zip(heads[:count], heads[count:], spec.strides, strict=True):
        columns = cls.shape[2]
        score = torch.from_numpy(cls).permute(1, 2, 0).flatten().sigmoid()
        index = torch.where(score > spec.score_threshold)[0]
        score, order = score[index].topk(min(spec.candidates_per_level, len(index)))
        point, label = index[order] // cls.shape[0], index[order] % cls.shape[0]
        x = (point % columns + 0.5) * stride
        y = (point // columns + 0.5) * stride
        d = torch.from_numpy(reg).flatten(1)[:, point] * (spec.regression_scale * stride)
        box = torch.stack([x - d[0], y - d[1], x + d[2], y + d[3]], 1)
        box[:, 0::2] = box[:, 0::2].clamp(0, spec.width)
        box[:, 1::2] = box[:, 1::2].clamp(0, spec.height)
        good = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        boxes.append(box[good])
        scores.append(score[good])
        labels.append(label[good])
    box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    groups = torch.zeros_like(label) if spec.class_agnostic else label
    keep = batched_nms(box, score, groups, spec.nms_iou)[: spec.max_detections]
    return box[keep].numpy(), score[keep].numpy(), label[keep].numpy()


def one(heads: Heads, spec: ModelSpec) -> Detections:
    (found,) = postprocess([head[None] for head in heads], spec)
    return found


def image_of(heads: Heads) -> Heads:
    return [head[0] for head in heads]


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("bias", [-6.0, -2.0, 1.0])
@pytest.mark.parametrize("size", [(256, 384), (384, 128)])
def test_equals_torchvision_on_random_inputs(
    size: tuple[int, int], bias: float, class_agnostic: bool
) -> None:
    # FP32 sigmoid maps many large logits to one score: at most 1 + 4 * 1.5 keeps them apart.
    spec = make_spec(4, *size, class_agnostic=class_agnostic, max_detections=300)
    heads = image_of(random_heads(spec, seed=int(bias) + size[0], bias=bias, spread=1.5))
    boxes, scores, labels = fcos_style(heads, spec)
    found = one(heads, spec)
    assert len(found) == len(boxes) > 5
    np.testing.assert_array_equal(found.class_id, labels)
    np.testing.assert_allclose(found.xyxy, boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.confidence, scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equals_torchvision_on_tied_inputs_up_to_ties(seed: int) -> None:
    """Without a per-level cut, ties may only change which of the equal ones is kept."""
    spec = make_spec(2, 256, 256, candidates_per_level=10**6, max_detections=10**6, nms_iou=1.0)
    heads = image_of(random_heads(spec, seed=seed, steps=1.0))
    boxes, scores, labels = fcos_style(heads, spec)
    found = one(heads, spec)
    ours = np.column_stack([found.confidence.round(5), found.class_id, found.xyxy])
    theirs = np.column_stack([scores.round(5), labels, boxes])
    assert len(ours) > 50
    np.testing.assert_allclose(
        ours[np.lexsort(ours.T[::-1])], theirs[np.lexsort(theirs.T[::-1])], atol=1e-4
    )


@pytest.mark.parametrize("seed", range(4))
def test_tied_scores_keep_as_torchvision_keeps(seed: int) -> None:
    """Scores tie, boxes do not overlap across ties: the cut and NMS must still agree in scores."""
    spec = make_spec(2, 256, 256, candidates_per_level=40, max_detections=500, nms_iou=1.0)
    heads = image_of(random_heads(spec, seed=seed, steps=0.5))
    _, scores, _ = fcos_style(heads, spec)
    found = one(heads, spec)
    np.testing.assert_allclose(found.confidence, scores, atol=1e-6)


def assert_equals_reference(heads: Heads, spec: ModelSpec) -> int:
    rows = reference.detect(heads, spec)
    found = decode_and_suppress(heads, spec)
    want = np.array([row[4] for row in rows], np.float32).reshape(-1, 4)
    assert found.class_id.tolist() == [row[3] for row in rows]
    np.testing.assert_array_equal(found.boxes, want)
    np.testing.assert_array_equal(found.logits, np.array([r[0] for r in rows], np.float32))
    return len(rows)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Heads, ModelSpec]:
    """Small pyramids of every kind of content."""
    spec = make_spec(
        draw(st.integers(1, 4)),
        draw(st.sampled_from([32, 64])),
        draw(st.sampled_from([32, 96])),
        strides=draw(st.sampled_from([(8, 16, 32), (16, 32), (8,)])),
        score_threshold=draw(st.sampled_from([0.0, 0.05, 0.5, 1.0])),
        candidates_per_level=draw(st.sampled_from([1, 7, 1000])),
        nms_iou=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        max_detections=draw(st.sampled_from([1, 5, 100])),
        class_agnostic=draw(st.booleans()),
    )
    heads = image_of(
        random_heads(
            spec,
            seed=draw(st.integers(0, 2**32 - 1)),
            bias=draw(st.sampled_from([-30.0, -3.0, 0.0, 3.0])),
            spread=draw(st.sampled_from([0.0, 1.0, 4.0])),  # 0: all equal.
            reach=draw(st.sampled_from([0.0, 0.2, 1.0, 1e6, 1e38])),
            steps=draw(st.sampled_from([None, 0.5])),
        )
    )
    if draw(st.booleans()):
        with np.errstate(over="ignore"):
            heads = [head.astype(np.float16) for head in heads]
    odd = [np.nan, np.inf, -np.inf, -0.0, 0.0]
    for head in heads:
        flat = head.reshape(-1)
        for place in draw(st.lists(st.integers(0, flat.size - 1), max_size=4)):
            flat[place] = draw(st.sampled_from(odd))
    return heads, spec


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_equals_plain_loops(case: tuple[Heads, ModelSpec]) -> None:
    assert_equals_reference(*case)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_equals_plain_loops_when_crowded(class_agnostic: bool) -> None:
    """More boxes than NMS takes up at a time, and more than one block kept."""
    spec = make_spec(
        2, 256, 256, class_agnostic=class_agnostic, max_detections=400, score_threshold=0.01
    )
    heads = image_of(random_heads(spec, seed=5, bias=0.0, reach=0.25))
    assert assert_equals_reference(heads, spec) > 100


def test_no_candidates() -> None:
    spec = make_spec()
    heads = random_heads(spec, bias=-50.0)
    (found,) = postprocess(heads, spec)
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)


def test_threshold_zero_takes_all_but_minus_infinity_and_one_takes_none() -> None:
    spec = make_spec(1, 32, 32, strides=(32,), nms_iou=1.0)
    heads: Heads = [np.full((1, 1, 1), -80.0, np.float32), np.full((4, 1, 1), 0.1, np.float32)]
    assert len(decode_and_suppress(heads, spec.replace(score_threshold=0.0)).boxes) == 1
    heads[0][:] = -np.inf
    assert len(decode_and_suppress(heads, spec.replace(score_threshold=0.0)).boxes) == 0
    heads[0][:] = np.inf
    assert len(decode_and_suppress(heads, spec.replace(score_threshold=1.0)).boxes) == 0
    assert len(decode_and_suppress(heads, spec.replace(score_threshold=0.99)).boxes) == 1


def test_worked_by_hand() -> None:
    """Eq. (8), corrected: point (1, 0) of stride 8 is at (12, 4); distances times 4 * 8 = 32."""
    spec = make_spec(1, 64, 64, strides=(8,))
    cls = np.full((1, 1, 8, 8), -9.0, np.float32)
    reg = np.zeros((1, 4, 8, 8), np.float32)
    cls[0, 0, 0, 1] = 0.0
    reg[0, :, 0, 1] = [0.25, 0.5, 1.0, 0.75]  # left 8, top 16, right 32, bottom 24
    (found,) = postprocess([cls, reg], spec)
    assert found.xyxy.tolist() == [[4.0, 0.0, 44.0, 28.0]]  # the top is clipped
    assert found.confidence.tolist() == [0.5]


def test_a_batch_is_its_images() -> None:
    spec = make_spec()
    heads = random_heads(spec, batch=3, seed=8)
    together = postprocess(heads, spec)
    assert len(together) == 3
    for index, found in enumerate(together):
        (alone,) = postprocess([head[index : index + 1] for head in heads], spec)
        np.testing.assert_array_equal(found.xyxy, alone.xyxy)
        np.testing.assert_array_equal(found.confidence, alone.confidence)
        assert len(found) > 0


def test_classes_are_those_of_a_network_that_knows_no_others() -> None:
    spec = make_spec(5, candidates_per_level=50)
    heads = random_heads(spec, seed=4)
    (found,) = postprocess(heads, spec, classes=[3, 1])
    count = len(spec.strides)
    small = make_spec(2, candidates_per_level=50)
    picked = [head[:, [1, 3]] for head in heads[:count]] + heads[count:]
    (expected,) = postprocess(picked, small)
    np.testing.assert_array_equal(found.xyxy, expected.xyxy)
    assert found.class_id.tolist() == [(1, 3)[i] for i in expected.class_id]


def test_frames_get_boxes_in_their_own_pixels_and_none_in_the_border() -> None:
    spec = make_spec(1, 128, 128, strides=(32,), nms_iou=1.0)
    cls = np.full((1, 1, 4, 4), 2.0, np.float32)
    reg = np.full((1, 4, 4, 4), 0.1, np.float32)  # 12.8 pixels to each side
    box = Letterbox.fit(32, 128, 128, 128)  # rows 48..80 of the input hold the frame
    (found,) = postprocess([cls, reg], spec, [box])
    assert len(found) == 8  # the upper and the lower row of points see border only
    assert found.xyxy[:, 1].min() >= 0
    assert found.xyxy[:, 3].max() <= 32


def test_heads_by_name_in_any_order() -> None:
    spec = make_spec()
    heads = random_heads(spec, seed=2)
    named = dict(zip(spec.output_names, heads, strict=True))
    (first,) = postprocess(dict(reversed(named.items())), spec)
    (second,) = postprocess(heads, spec)
    np.testing.assert_array_equal(first.xyxy, second.xyxy)


def test_misfitting_heads_are_named() -> None:
    spec = make_spec()
    heads = random_heads(spec)
    named = dict(zip(spec.output_names, heads, strict=True))
    del named["reg_p4"]
    with pytest.raises(InvalidValueError, match="output reg_p4 is missing"):
        postprocess(named, spec)
    with pytest.raises(InvalidValueError, match=r"has 10 outputs \(got 9\)"):
        postprocess(heads[:-1], spec)
    heads[1] = heads[1][:, :, :-1]
    with pytest.raises(InvalidValueError, match=r"output cls_p4 .*expected \[1, 3, 16, 24\]"):
        postprocess(heads, spec)


def test_logit_threshold_is_the_inverse_of_sigmoid() -> None:
    for probability in (0.001, 0.05, 0.5, 0.9, 0.999):
        assert sigmoid(logit_threshold(probability)) == pytest.approx(probability, rel=1e-6)
    assert logit_threshold(0) == -np.inf
    assert logit_threshold(1) == np.inf


def test_nms_stops_after_max_detections_and_takes_nothing() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    assert nms(boxes, None, 0.5).tolist() == [0, 2, 3]
    assert nms(boxes, None, 0.5, 2).tolist() == [0, 2]
    assert nms(boxes, [0, 1, 0, 0], 0.5).tolist() == [0, 1, 2, 3]
    assert nms(np.empty((0, 4), np.float32), None, 0.5).tolist() == []
    # IoU of exactly the threshold is not above it.
    assert nms([[0, 0, 10, 10], [0, 0, 10, 5]], None, 0.5).tolist() == [0, 1]
