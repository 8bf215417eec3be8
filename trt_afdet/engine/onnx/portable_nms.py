"""Decode + NMS in standard ONNX operators.

What :mod:`trt_afdet.postprocess` computes, from operators that ONNX Runtime and TensorRT know. The
total order of candidates needs no separate sort: TopK breaks ties by the lower index, so a level
is laid out with index = point * classes + class, and the levels' best stand one after the other.
(Where a runtime's TopK breaks ties otherwise, equal logits may come in another order.)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trt_afdet.engine.onnx.suppression import Candidates, by_loop, by_operator
from trt_afdet.engine.onnx.writer import GraphWriter
from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.postprocess import logit_threshold
from trt_afdet.spec import ModelSpec

#: Every operator used here has the same form from this opset on.
MIN_OPSET = 17


def write_portable_nms(graph: GraphWriter, spec: ModelSpec, *, loop: bool = False) -> None:
    """Adds all five steps, from the heads (``spec.output_names``) to ``DETECTION_NAMES``.

    Heads may be FP16 or FP32; the arithmetic is FP32. With ``loop``,
    :func:`~trt_afdet.engine.onnx.suppression.by_loop` stands in for NonMaxSuppression.
    """
    threshold = logit_threshold(spec.score_threshold)
    logits, point, class_id = _select(graph, spec, threshold)
    boxes, sound = _decode(graph, spec, point)
    valid = graph.add("And", sound, graph.add("Greater", logits, graph.floats(threshold)))
    logits = graph.add("Where", valid, logits, graph.floats(-np.inf))
    candidates = Candidates(logits, boxes, class_id, sum(_slots(spec)))
    kept = (by_loop if loop else by_operator)(graph, spec, candidates)
    _publish(graph, spec, candidates, kept)


def _slots(spec: ModelSpec) -> list[int]:
    """How many candidates each level can have."""
    limit = spec.candidates_per_level
    return [min(limit, rows * columns * spec.num_classes) for rows, columns in spec.grid_sizes]


def _rows(graph: GraphWriter, spec: ModelSpec, head: int, channels: int) -> str:
    """A head with its channels last, one row per point: [N, points, channels]."""
    rows, columns = spec.grid_sizes[head % len(spec.strides)]
    last = graph.add("Transpose", spec.output_names[head], perm=[0, 2, 3, 1])
    return graph.add("Reshape", last, graph.ints([0, rows * columns, channels]))


def _select(graph: GraphWriter, spec: ModelSpec, threshold: np.float32) -> tuple[str, str, str]:
    """Steps 1 and 2: logits float32, points over all levels int64, classes int32; each [N, B].

    A slot without a candidate has the logit -inf.
    """
    none, limit = graph.floats(-np.inf), graph.floats(threshold)
    classes = graph.ints(spec.num_classes)
    logits, points, class_ids = [], [], []
    before = 0
    for level, slots in enumerate(_slots(spec)):
        pairs = _rows(graph, spec, level, spec.num_classes)
        flat = graph.to_float(graph.add("Reshape", pairs, graph.ints([0, -1])))
        # NaN is above nothing, so it goes too.
        flat = graph.add("Where", graph.add("Greater", flat, limit), flat, none)
        best, index = graph.add_many("TopK", [flat, graph.ints([slots])], 2, axis=1)
        point = graph.add("Div", index, classes)
        logits.append(best)
        points.append(graph.add("Add", point, graph.ints(before)))
        class_ids.append(graph.add("Sub", index, graph.add("Mul", point, classes)))
        before += math.prod(spec.grid_sizes[level])
    return (
        graph.add("Concat", *logits, axis=1),
        graph.add("Concat", *points, axis=1),
        graph.to_int32(graph.add("Concat", *class_ids, axis=1)),
    )


def _centres(spec: ModelSpec) -> npt.NDArray[np.float32]:
    """x, y, x, y of every point of every level: float32 [points, 4]."""
    levels = []
    for stride, (rows, columns) in zip(spec.strides, spec.grid_sizes, strict=True):
        y, x = np.divmod(np.arange(rows * columns), columns)
        levels.append((np.stack([x, y, x, y], axis=1) + 0.5) * stride)
    return np.concatenate(levels).astype(np.float32)


def _decode(graph: GraphWriter, spec: ModelSpec, point: str) -> tuple[str, str]:
    """Step 3: boxes float32 [N, B, 4], and which are finite and not empty, bool [N, B]."""
    count = len(spec.strides)
    heads = [_rows(graph, spec, count + level, 4) for level in range(count)]
    index = graph.add("Unsqueeze", point, graph.ints([2]))
    everywhere = graph.add("Concat", *heads, axis=1)
    distance = graph.to_float(graph.add("GatherND", everywhere, index, batch_dims=1))
    centre = graph.add("Gather", graph.floats(_centres(spec)), point, axis=0)
    # Left and top are taken away: negating a float32 is exact.
    scales = [np.float32(spec.regression_scale * stride) for stride in spec.strides]
    signed = np.repeat(scales, _slots(spec))[:, None] * np.array([-1, -1, 1, 1], np.float32)
    corners = graph.add("Add", centre, graph.add("Mul", distance, graph.floats(signed)))
    far = graph.floats([spec.width, spec.height, spec.width, spec.height])
    inside = graph.add("Min", graph.add("Max", corners, graph.floats(0)), far)
    # A corner that is not finite goes to the opposite side, which leaves the box empty.
    finite = graph.add("Less", graph.add("Abs", corners), graph.floats(np.inf))
    opposite = graph.floats([spec.width, spec.height, 0, 0])
    boxes = graph.add("Where", finite, inside, opposite)
    x1, y1, x2, y2 = (graph.add("Gather", boxes, graph.ints(i), axis=2) for i in range(4))
    return boxes, graph.add("And", graph.add("Greater", x2, x1), graph.add("Greater", y2, y1))


def _publish(graph: GraphWriter, spec: ModelSpec, candidates: Candidates, kept: str) -> None:
    """Step 5: the best, padded to ``max_detections`` rows."""
    rows = min(spec.max_detections, candidates.size)
    best, slot = graph.add_many("TopK", [kept, graph.ints([rows])], 2, axis=1)
    found = graph.add("Greater", best, graph.floats(-np.inf))
    two = graph.ints([2])
    place = graph.add("Unsqueeze", slot, two)
    boxes = graph.add("GatherND", candidates.boxes, place, batch_dims=1)
    class_id = graph.add("GatherND", candidates.class_id, place, batch_dims=1)
    zero, no_class = graph.floats(0), graph.constant(-1, np.int32)
    boxes = graph.add("Where", graph.add("Unsqueeze", found, two), boxes, zero)
    scores = graph.add("Where", found, _sigmoid(graph, best), zero)
    class_id = graph.add("Where", found, class_id, no_class)
    missing = spec.max_detections - rows
    if missing:
        ends = graph.ints([0, 0, 0, missing])
        boxes = graph.add("Pad", boxes, graph.ints([0, 0, 0, 0, missing, 0]), zero)
        scores = graph.add("Pad", scores, ends, zero)
        class_id = graph.add("Pad", class_id, ends, no_class)
    count = graph.add("ReduceSum", graph.to_int32(found), graph.ints([1]))
    for name, tensor in zip(DETECTION_NAMES, (count, boxes, scores, class_id), strict=True):
        graph.publish(tensor, name)


def _sigmoid(graph: GraphWriter, logits: str) -> str:
    """Runtimes' own Sigmoid is precise to an absolute error only; this one to a relative one."""
    one = graph.floats(1)
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", logits)))
    above = graph.add("Where", graph.add("Less", logits, graph.floats(0)), small, one)
    return graph.add("Div", above, graph.add("Add", one, small))
