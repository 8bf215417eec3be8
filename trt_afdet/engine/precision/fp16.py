"""FP16 written into the ONNX itself: every tensor has the type it will have in the engine.

The conversion is ONNX Runtime's own (``onnxruntime.transformers.float16``, MIT licence, released
with the runtime). This module adds: which parts stay FP32, which values FP16 cannot hold, and
taking out the pairs of casts that the converter leaves between neighbours that both stay FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trt_afdet.engine.onnx.writer import replace
from trt_afdet.engine.options import IO_TYPES
from trt_afdet.engine.precision.blocks import WEIGHTED, Wiring
from trt_afdet.errors import InvalidValueError
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    import onnx

#: The largest finite FP16 number, and the smallest above zero.
LARGEST = 65504.0
SMALLEST = 2.0**-24

#: Operators behind the last convolutions that overflow or lose too much in FP16: a softplus written
#: as log(1 + exp(x)) is infinite from x = 11.1 on.
_FP32_AT_THE_END = ("Exp", "Log", "Pow", "Sigmoid", "Softplus")


class OutOfRange(NamedTuple):
    """A stored tensor that FP16 cannot hold: its largest magnitude, and the nodes that read it."""

    tensor: str
    largest: float
    nodes: tuple[str, ...]


def out_of_range(model: onnx.ModelProto) -> list[OutOfRange]:
    """Stored FP32 tensors with finite values beyond :data:`LARGEST`."""
    wiring = Wiring(model)
    result = []
    for name, values in _constants(model):
        finite = np.abs(values[np.isfinite(values)])
        if finite.size and float(finite.max()) > LARGEST:
            nodes = tuple(node.name for node in wiring.consumers[name])
            result.append(OutOfRange(name, float(finite.max()), nodes))
    return result


def to_half(
    model: onnx.ModelProto, keep: Collection[str] = (), io: str = "float16"
) -> onnx.ModelProto:
    """A typed FP16 copy of a canonical FP32 model, with or without Q/DQ (these need opset 19).

    The nodes of ``keep`` stay FP32, and so does what follows the last convolution of an output, if
    it has an Exp, Softplus or Sigmoid. ``io`` is the type of the input and the heads.

    Raises:
        InvalidValueError: If a stored value does not fit into FP16 and its node is not kept, or a
            kept node does not exist.
        MissingDependencyError: If onnx or onnxruntime is not installed.
    """
    if io not in IO_TYPES:
        raise InvalidValueError(f"io must be {' or '.join(IO_TYPES)}", got=io)
    unknown = sorted(set(keep) - {node.name for node in model.graph.node})
    if unknown:
        raise InvalidValueError("the model has no such node to keep", got=unknown[0])
    kept = set(keep) | fp32_tail(model)
    for found in out_of_range(model):
        if lost := [name for name in found.nodes if name not in kept]:
            raise InvalidValueError(
                f"{found.tensor} does not fit into FP16, whose largest number is {LARGEST:.0f}",
                got=f"{found.largest:g}",
                hint=f"keep {lost[0]} in FP32",
            )
    try:
        import onnx.checker
        import onnx.shape_inference
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise missing(error, extra="quantize") from error
    source = copy_of(model)
    _unshare_constants(source, kept)
    converted: onnx.ModelProto = convert_float_to_float16(
        source, keep_io_types=io == "float32", node_block_list=sorted(kept)
    )
    _join_casts(converted)
    sort_nodes(converted)
    del converted.graph.value_info[:]
    converted = onnx.shape_inference.infer_shapes(converted, strict_mode=True, data_prop=True)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def fp32_tail(model: onnx.ModelProto) -> set[str]:
    """Nodes behind the last convolution of an output that end in what FP16 does badly."""
    wiring = Wiring(model)
    result: set[str] = set()
    for output in model.graph.output:
        tail: list[onnx.NodeProto] = []
        front = [output.name]
        while front:
            node = wiring.producer.get(front.pop())
            if node is not None and node.op_type not in WEIGHTED and node not in tail:
                tail.append(node)
                front += wiring.data_inputs(node)
        # Without a convolution on the way, the "tail" would be the whole network.
        if len(tail) < len(wiring.nodes) and any(n.op_type in _FP32_AT_THE_END for n in tail):
            result.update(node.name for node in tail)
    return result


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP16 model in which ONNX Runtime's CPU provider rounds as a GPU would.

    That provider computes FP16 graphs in FP32 and drops the casts between nodes: only weights are
    rounded, and the measured loss of accuracy is too small. A Reshape that changes nothing, after
    every FP16 result, makes it round there.
    """
    import onnx.shape_inference
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    halves = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    # What comes from Q/DQ is the exact product of an integer and a scale in an INT8 kernel.
    skipped = ("DequantizeLinear", "QuantizeLinear", "Cast", "Constant", "Identity", "Reshape")
    nodes = []
    shapes = {}
    for node in model.graph.node:
        nodes.append(node)
        for index, out in enumerate(node.output):
            rank = halves.get(out, 0)
            if node.op_type not in skipped and rank:
                shape = f"rounding/rank{rank}"
                # Zero: the size it has.
                shapes[shape] = numpy_helper.from_array(np.zeros(rank, np.int64), shape)
                node.output[index] = f"{out}/exact"
                nodes.append(helper.make_node("Reshape", [node.output[index], shape], [out]))
    replace(model.graph.node, nodes)
    model.graph.initializer.extend(shapes.values())
    del model.graph.value_info[:]
    return model


def sort_nodes(model: onnx.ModelProto) -> None:
    """Puts the nodes into an order that can be run, changing as little as possible."""
    graph = model.graph
    ready = {"", *(value.name for value in (*graph.initializer, *graph.input))}
    waiting, ordered = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready for name in node.input):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise InvalidValueError("the model's graph has a cycle", got=later[0].name)
        waiting = later
    replace(model.graph.node, ordered)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """Name and values of every stored FP32 tensor."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                    yield node.output[0], numpy_helper.to_array(attribute.t)
                elif attribute.name in ("value_float", "value_floats"):
                    yield node.output[0], np.array([attribute.f, *attribute.floats])


def _unshare_constants(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Copies weights that kept nodes share with others, whose copy is rounded."""
    from onnx import TensorProto

    floats = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    others = {name for n in model.graph.node if n.name not in kept for name in n.input}
    copies: dict[str, Any] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input if node.name in kept else ()):
            if name in floats and name in others:
                copy = copies.setdefault(name, TensorProto())
                copy.CopyFrom(floats[name])
                copy.name = node.input[index] = f"{name}/fp32"
    model.graph.initializer.extend(copies.values())


def _join_casts(model: onnx.ModelProto) -> None:
    """Takes out FP32 -> FP16 -> FP32, which only loses digits, and casts that nobody reads."""
    from onnx import TensorProto

    outputs = {value.name for value in model.graph.output}
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    target = {out: a.i for out, n in casts.items() for a in n.attribute if a.name == "to"}
    exact: dict[str, str] = {}
    for out, node in casts.items():
        source = node.input[0]
        there, back = target.get(source), target[out]
        if (there, back) == (TensorProto.FLOAT16, TensorProto.FLOAT):
            exact[out] = casts[source].input[0]
    # A graph output keeps its name: the node that computes it takes that over.
    renamed = {source: name for name, source in exact.items() if name in outputs}
    nodes = [n for n in model.graph.node if n.op_type != "Cast" or n.output[0] not in exact]
    for node in nodes:
        for index, name in enumerate(node.input):
            name = exact.get(name, name)
            node.input[index] = renamed.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = renamed.get(name, name)
    read = {name for node in nodes for name in node.input} | outputs
    replace(model.graph.node, (n for n in nodes if n.op_type != "Cast" or n.output[0] in read))
