"""Decode + NMS in standard ONNX operators.

What :mod:`trt_afdet.postprocess` computes, from operators that ONNX Runtime and TensorRT know. The
total order of candidates holds without a sort of its own: TopK and NonMaxSuppression break ties by
the lower index, so a level is laid out with index = point * classes + class, and the levels' best
stand one after the other. Where a runtime breaks ties otherwise, only the order of equal logits can
differ.

NonMaxSuppression gets one row of scores per class, in which only the candidates of that class take
part. (Shifting the boxes of each class apart instead would round their coordinates.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.interface import DETECTION_NAMES
from trt_afdet.postprocess import logit_threshold
from trt_afdet.spec import ModelSpec

#: Every operator used here has the same form from this opset on.
MIN_OPSET = 17


class GraphWriter:
    """Collects nodes and constants; a tensor is its name.

    Attributes:
        nodes: onnx.NodeProto, in an order that can be run.
        constants: onnx.TensorProto.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._prefix = prefix

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output and returns that."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Adds a node of several outputs and returns them."""
        from onnx import helper

        name = f"{self._prefix}/{op}_{len(self.nodes)}"
        outputs = [name] if count == 1 else [f"{name}.{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        from onnx import numpy_helper

        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def floats(self, value: npt.ArrayLike) -> str:
        return self.constant(value, np.float32)

    def ints(self, value: npt.ArrayLike) -> str:
        return self.constant(value, np.int64)

    def to_float(self, tensor: str) -> str:
        return self.add("Cast", tensor, to=1)

    def to_int32(self, tensor: str) -> str:
        return self.add("Cast", tensor, to=6)

    def publish(self, tensor: str, name: str) -> None:
        """Gives a tensor the name of a graph output."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))


def write_portable_nms(graph: GraphWriter, spec: ModelSpec) -> None:
    """Adds all five steps, from the heads (``spec.output_names``) to ``DETECTION_NAMES``.

    Heads may be FP16 or FP32; the arithmetic is FP32.
    """
    logits, point, class_id = _select(graph, spec)
    boxes, sound = _decode(graph, spec, point)
    none = graph.floats(-np.inf)
    threshold = graph.floats(logit_threshold(spec.score_threshold))
    valid = graph.add("And", sound, graph.add("Greater", logits, threshold))
    logits = graph.add("Where", valid, logits, none)
    kept = _suppress(graph, spec, boxes, logits, class_id, none, threshold)
    _publish(graph, spec, boxes, kept, class_id, threshold)


def _slots(spec: ModelSpec) -> list[int]:
    """How many candidates each level can have."""
    limit = spec.candidates_per_level
    return [min(limit, rows * columns * spec.num_classes) for rows, columns in spec.grid_sizes]


def _select(graph: GraphWriter, spec: ModelSpec) -> tuple[str, str, str]:
    """Steps 1 and 2: logits float32, points over all levels int64, classes int32; each [N, B].

    A slot without a candidate has the logit -inf.
    """
    threshold = graph.floats(logit_threshold(spec.score_threshold))
    none, classes = graph.floats(-np.inf), graph.ints(spec.num_classes)
    logits, points, class_ids = [], [], []
    before = 0
    for name, (rows, columns), slots in zip(
        spec.output_names, spec.grid_sizes, _slots(spec), strict=False
    ):
        last = graph.to_float(graph.add("Transpose", name, perm=[0, 2, 3, 1]))
        size = rows * columns
        flat = graph.add("Reshape", last, graph.ints([0, size * spec.num_classes]))
        # NaN is above nothing, so it goes too.
        flat = graph.add("Where", graph.add("Greater", flat, threshold), flat, none)
        best, index = graph.add_many("TopK", [flat, graph.ints([slots])], 2, axis=1)
        point = graph.add("Div", index, classes)
        class_ids.append(graph.add("Sub", index, graph.add("Mul", point, classes)))
        points.append(graph.add("Add", point, graph.ints(before)))
        logits.append(best)
        before += size
    return (
        graph.add("Concat", *logits, axis=1),
        graph.add("Concat", *points, axis=1),
        graph.to_int32(graph.add("Concat", *class_ids, axis=1)),
    )


def _centres(spec: ModelSpec) -> npt.NDArray[np.float32]:
    """x, y, x, y of every point of every level, float32 [points, 4]."""
    levels = []
    for stride, (rows, columns) in zip(spec.strides, spec.grid_sizes, strict=True):
        y, x = np.divmod(np.arange(rows * columns), columns)
        levels.append((np.stack([x, y, x, y], axis=1) + 0.5) * stride)
    return np.concatenate(levels).astype(np.float32)


def _decode(graph: GraphWriter, spec: ModelSpec, point: str) -> tuple[str, str]:
    """Step 3: boxes float32 [N, B, 4], and which are finite and not empty, bool [N, B]."""
    flat = [
        graph.add(
            "Reshape",
            graph.add("Transpose", name, perm=[0, 2, 3, 1]),
            graph.ints([0, rows * columns, 4]),
        )
        for name, (rows, columns) in zip(
            spec.output_names[len(spec.strides) :], spec.grid_sizes, strict=True
        )
    ]
    everywhere = graph.add("Concat", *flat, axis=1)
    index = graph.add("Unsqueeze", point, graph.ints([2]))
    distance = graph.to_float(graph.add("GatherND", everywhere, index, batch_dims=1))
    centre = graph.add("Gather", graph.floats(_centres(spec)), point, axis=0)
    # Left and top are taken away: negating a float32 is exact.
    scales = [np.float32(spec.regression_scale * stride) for stride in spec.strides]
    signed = np.repeat(scales, _slots(spec))[:, None] * np.array([-1, -1, 1, 1], np.float32)
    corners = graph.add("Add", centre, graph.add("Mul", distance, graph.floats(signed)))
    sides = [spec.width, spec.height, spec.width, spec.height]
    inside = graph.add("Min", graph.add("Max", corners, graph.floats(0)), graph.floats(sides))
    # A corner that is not finite goes to the far side, which leaves the box empty.
    finite = graph.add("Less", graph.add("Abs", corners), graph.floats(np.inf))
    boxes = graph.add("Where", finite, inside, graph.floats([spec.width, spec.height, 0, 0]))
    x1, y1, x2, y2 = (graph.add("Gather", boxes, graph.ints(i), axis=2) for i in range(4))
    return boxes, graph.add("And", graph.add("Greater", x2, x1), graph.add("Greater", y2, y1))


def _suppress(
    graph: GraphWriter,
    spec: ModelSpec,
    boxes: str,
    logits: str,
    class_id: str,
    none: str,
    threshold: str,
) -> str:
    """Step 4: the logits of the kept candidates, -inf in all other places, [N, B]."""
    one = graph.ints([1])
    scores = graph.add("Unsqueeze", logits, one)
    if not spec.class_agnostic:
        classes = graph.constant(np.arange(spec.num_classes)[:, None], np.int32)
        own = graph.add("Equal", graph.add("Unsqueeze", class_id, one), classes)
        scores = graph.add("Where", own, scores, none)
    # No class can have more of the best max_detections than all of them.
    most, iou = graph.ints([spec.max_detections]), graph.floats([spec.nms_iou])
    chosen = graph.add("NonMaxSuppression", boxes, scores, most, iou, threshold)
    slot = graph.add("Gather", chosen, graph.ints([0, 2]), axis=1)
    nothing = graph.add("ConstantOfShape", graph.add("Shape", logits), value=_minus_infinity())
    return graph.add("ScatterND", nothing, slot, graph.add("GatherND", logits, slot))


def _minus_infinity() -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array([-np.inf], np.float32))


def _publish(
    graph: GraphWriter, spec: ModelSpec, boxes: str, kept: str, class_id: str, threshold: str
) -> None:
    """Step 5: the best, padded to ``max_detections`` rows."""
    rows = min(spec.max_detections, sum(_slots(spec)))
    best, slot = graph.add_many("TopK", [kept, graph.ints([rows])], 2, axis=1)
    found = graph.add("Greater", best, threshold)
    zero, two = graph.floats(0), graph.ints([2])
    place = graph.add("Unsqueeze", slot, two)
    chosen = graph.add("GatherND", boxes, place, batch_dims=1)
    columns = (
        graph.add("Where", graph.add("Unsqueeze", found, two), chosen, zero),
        graph.add("Where", found, _sigmoid(graph, best), zero),
        graph.add(
            "Where",
            found,
            graph.add("GatherND", class_id, place, batch_dims=1),
            graph.constant(-1, np.int32),
        ),
    )
    count = graph.add("ReduceSum", graph.to_int32(found), graph.ints([1]))
    graph.publish(count, DETECTION_NAMES[0])
    missing = spec.max_detections - rows
    fill = (zero, zero, graph.constant(-1, np.int32))
    for tensor, name, value in zip(columns, DETECTION_NAMES[1:], fill, strict=True):
        if missing:
            ends = [0, 0, 0, 0, missing, 0] if tensor == columns[0] else [0, 0, 0, missing]
            tensor = graph.add("Pad", tensor, graph.ints(ends), value)
        graph.publish(tensor, name)


def _sigmoid(graph: GraphWriter, logits: str) -> str:
    """Runtimes' own Sigmoid is precise to an absolute error only; this one to a relative one."""
    one = graph.floats(1)
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", logits)))
    above = graph.add("Where", graph.add("Less", logits, graph.floats(0)), small, one)
    return graph.add("Div", above, graph.add("Add", one, small))
