"""Greedy NMS in standard ONNX operators, in two ways of the same result.

:func:`by_operator` uses NonMaxSuppression: the fastest in ONNX Runtime, and known to TensorRT. Its
output's size depends on the data. TensorRT-RTX has no such operator.

:func:`by_loop` uses a Loop of elementary operators, all of fixed size, which TensorRT-RTX builds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trt_afdet.engine.onnx.writer import GraphWriter
from trt_afdet.postprocess import logit_threshold
from trt_afdet.spec import ModelSpec

#: Candidates that one pass of the loop looks at: many enough that a frame takes few passes, few
#: enough that comparing them with all candidates stays cheap.
_BLOCK = 32


class Candidates(NamedTuple):
    """Tensors of the candidates in (level, rank within the level) order.

    Attributes:
        logits: float32 [N, B], -inf where there is no candidate.
        boxes: float32 [N, B, 4], finite everywhere.
        class_id: int32 [N, B].
        size: B.
    """

    logits: str
    boxes: str
    class_id: str
    size: int


def by_operator(graph: GraphWriter, spec: ModelSpec, candidates: Candidates) -> str:
    """The logits of the kept candidates, -inf in all other places: float32 [N, B].

    NonMaxSuppression takes equal scores by the lower index, and removes by IoU > threshold. It gets
    one row of scores per class, in which only the candidates of that class take part. (Shifting the
    boxes of each class apart instead would round their coordinates.)
    """
    logits, one = candidates.logits, graph.ints([1])
    scores = graph.add("Unsqueeze", logits, one)
    if not spec.class_agnostic:
        classes = graph.constant(np.arange(spec.num_classes)[:, None], np.int32)
        own = graph.add("Equal", graph.add("Unsqueeze", candidates.class_id, one), classes)
        scores = graph.add("Where", own, scores, graph.floats(-np.inf))
    # No class can have more of the best max_detections than all of them.
    most, iou = graph.ints([spec.max_detections]), graph.floats([spec.nms_iou])
    above = graph.floats([logit_threshold(spec.score_threshold)])
    chosen = graph.add("NonMaxSuppression", candidates.boxes, scores, most, iou, above)
    slot = graph.add("Gather", chosen, graph.ints([0, 2]), axis=1)
    kept = graph.add("GatherND", logits, slot)
    return graph.add("ScatterND", graph.full_like(logits, -np.inf), slot, kept)


def by_loop(graph: GraphWriter, spec: ModelSpec, candidates: Candidates) -> str:
    """As :func:`by_operator`.

    A pass looks at the best candidates that are neither kept nor removed. Those of them that no
    better one would remove are certain: they are kept, and what they overlap is removed. The best
    of all is always among them, so ``max_detections`` passes are enough; real frames take a few.
    """
    from onnx import TensorProto, helper

    open_, kept, go = "nms/loop/open", "nms/loop/kept", "nms/loop/go"
    none, axis = graph.floats(-np.inf), graph.ints([1])
    start = graph.full_like(candidates.logits, -np.inf)
    nothing = graph.full_like(candidates.logits, 0)
    remover = _remover(graph, spec, candidates)
    width = min(_BLOCK, candidates.size)
    # The body of the loop, which sees all the rest.
    outside, graph.nodes = graph.nodes, []
    best, slot = graph.add_many("TopK", [open_, graph.ints([width])], 2, axis=1)
    removes = remover(slot)
    rows = graph.add("Expand", graph.add("Unsqueeze", slot, axis), graph.ints([1, width, 1]))
    pairs = graph.add("GatherElements", removes, rows, axis=2)
    earlier = graph.floats(np.triu(np.ones((width, width)), 1))
    rivals = graph.add("ReduceSum", graph.add("Mul", pairs, earlier), axis, keepdims=0)
    alone = graph.add("Less", rivals, graph.floats(0.5))
    certain = graph.to_float(graph.add("And", alone, graph.add("Greater", best, none)))
    taken = graph.add("ScatterElements", nothing, slot, certain, axis=1)
    is_taken = graph.add("Greater", taken, graph.floats(0.5))
    kept_next = graph.add("Where", is_taken, open_, kept)
    hits = graph.add("MatMul", graph.add("Unsqueeze", certain, axis), removes)
    gone = graph.add("Greater", graph.add("Squeeze", hits, axis), graph.floats(0.5))
    # Nothing is left to find once enough of the kept ones come before all that is open.
    top = graph.add("Gather", best, graph.ints([0]), axis=1)
    ahead = graph.to_float(graph.add("Greater", kept_next, top))
    enough = graph.add(
        "Greater", graph.add("ReduceSum", ahead, axis), graph.floats(spec.max_detections - 0.5)
    )
    closed = graph.add("Or", graph.add("Or", is_taken, gone), enough)
    open_next = graph.add("Where", closed, none, open_)
    more = graph.add("Greater", graph.add("ReduceMax", open_next, keepdims=0), none)
    nodes, graph.nodes = graph.nodes, outside

    def state(going: str, *logits: str) -> list[Any]:
        info, shape = helper.make_tensor_value_info, [None, candidates.size]
        floats = [info(name, TensorProto.FLOAT, shape) for name in logits]
        return [info(going, TensorProto.BOOL, []), *floats]

    turn = helper.make_tensor_value_info("nms/loop/pass", TensorProto.INT64, [])
    before, after = [turn, *state(go, open_, kept)], state(more, open_next, kept_next)
    body = helper.make_graph(nodes, "suppress", before, after)
    passes, yes = graph.ints(spec.max_detections), graph.constant(True, np.bool_)
    return graph.add_many("Loop", [passes, yes, candidates.logits, start], 2, body=body)[1]


def _remover(graph: GraphWriter, spec: ModelSpec, candidates: Candidates) -> Callable[[str], str]:
    """A function that writes which boxes of all [B] those of a ``slot`` [N, W] remove: 1 where they
    overlap by more than the spec's IoU, else 0, float32 [N, W, B].

    Boxes are solids whose third side is the class: those of different classes do not meet.
    """
    axis, two = graph.ints([1]), graph.ints([2])
    flat = graph.add("Transpose", candidates.boxes, perm=[0, 2, 1])
    low, high = graph.add_many("Split", [flat, graph.ints([2, 2])], 2, axis=1)
    lengths = [graph.add("Sub", high, low), graph.ints([1, 1])]
    area = graph.add("Mul", *graph.add_many("Split", lengths, 2, axis=1))
    sides = 2
    if not spec.class_agnostic:
        depth = graph.to_float(graph.add("Unsqueeze", candidates.class_id, axis))
        low = graph.add("Concat", low, depth, axis=1)
        high = graph.add("Concat", high, graph.add("Add", depth, graph.floats(1)), axis=1)
        sides = 3
    table = graph.add("Concat", low, high, area, axis=1)
    # Sides [N, sides, 1, B] and area [N, 1, 1, B].
    all_low, all_high, all_area = (
        graph.add("Unsqueeze", of_all, two) for of_all in (low, high, area)
    )

    def removes(slot: str) -> str:
        shape = graph.ints([1, 2 * sides + 1, 1])
        index = graph.add("Expand", graph.add("Unsqueeze", slot, axis), shape)
        chosen = graph.add("GatherElements", table, index, axis=2)
        mine = [graph.add("Unsqueeze", chosen, graph.ints([3])), graph.ints([sides, sides, 1])]
        low, high, area = graph.add_many("Split", mine, 3, axis=1)
        ends = graph.add("Min", high, all_high), graph.add("Max", low, all_low)
        length = graph.add("Max", graph.add("Sub", *ends), graph.floats(0))
        shared = graph.add_many("Split", [length, graph.ints([1] * sides)], sides, axis=1)
        inter = functools.reduce(lambda one, other: graph.add("Mul", one, other), shared)
        union = graph.add("Sub", graph.add("Add", area, all_area), inter)
        above = graph.add("Greater", graph.add("Div", inter, union), graph.floats(spec.nms_iou))
        return graph.add("Squeeze", graph.to_float(above), axis)

    return removes
