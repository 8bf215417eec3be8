"""Weights stored in FP16 and computed with in FP32: half the file.

Each large tensor is an FP16 initializer behind a Cast. ONNX Runtime folds the two when it opens the
model (benchmarks/bench_half_weights.py), and build-engine does so when it reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

#: Smaller tensors stay in FP32: biases, scales and shapes gain nothing.
_MIN_ELEMENTS = 256
_SUFFIX = ".half"


def store_half(model: onnx.ModelProto) -> None:
    """Replaces the large FP32 initializers of a model by FP16 ones, in place.

    A tensor with a value that FP16 cannot hold stays as it is.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts, kept = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= _MIN_ELEMENTS:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max() <= np.finfo(np.float16).max:
                name = tensor.name
                tensor = numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX)
                cast = helper.make_node("Cast", [tensor.name], [name], name + ".cast", to=1)
                casts.append(cast)
        kept.append(tensor)
    _replace(model.graph, kept, [*casts, *model.graph.node])


def restore(model: onnx.ModelProto) -> None:
    """The reverse of :func:`store_half`, in place: FP32 initializers with the rounded values."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    half = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    casts = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in half and node.attribute[0].i == 1
    }
    if not casts:
        return
    kept = []
    for tensor in graph.initializer:
        if tensor.name in casts:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor = numpy_helper.from_array(values, casts[tensor.name].output[0])
        kept.append(tensor)
    folded = {node.output[0] for node in casts.values()}
    _replace(graph, kept, [node for node in graph.node if node.output[0] not in folded])


def _replace(
    graph: onnx.GraphProto, initializers: list[onnx.TensorProto], nodes: list[onnx.NodeProto]
) -> None:
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    initializers = [type(t).FromString(t.SerializeToString()) for t in initializers]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)
