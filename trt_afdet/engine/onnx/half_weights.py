"""Weights stored in FP16 and computed with in FP32: half the file.

Each large tensor is an FP16 initializer behind a Cast. ONNX Runtime folds the two when it opens the
model (benchmarks/bench_half_weights.py); all that reads the file itself gets it from
:func:`~trt_afdet.engine.onnx.model_file.read_model`, which does the same.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from trt_afdet.engine.onnx.writer import replace

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
    replace(model.graph.initializer, kept)
    replace(model.graph.node, [*casts, *model.graph.node])


def restore(model: onnx.ModelProto) -> None:
    """The reverse of :func:`store_half`, in place: FP32 initializers with the rounded values."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    readers = Counter(name for node in graph.node for name in node.input)
    half = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and readers[tensor.name] == 1
    }
    full: dict[str, str] = {}
    for node in graph.node:
        target = next((a.i for a in node.attribute if a.name == "to"), None)
        if node.op_type == "Cast" and target == TensorProto.FLOAT and node.input[0] in half:
            full[node.input[0]] = node.output[0]
    kept = []
    for tensor in graph.initializer:
        if tensor.name in full:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor = numpy_helper.from_array(values, full[tensor.name])
        kept.append(tensor)
    if full:
        replace(graph.initializer, kept)
        replace(graph.node, [node for node in graph.node if not full.keys() & set(node.input)])
