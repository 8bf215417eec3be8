"""Proves that a quantized graph follows TensorRT's rules and the plan."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from trt_afdet.engine.precision.blocks import Wiring
from trt_afdet.engine.precision.placement import Placement
from trt_afdet.errors import RunError

if TYPE_CHECKING:
    import onnx


def check_quantized(model: onnx.ModelProto, placement: Placement) -> None:
    """Proves that a quantized graph follows TensorRT's rules and the plan.

    Checked: standard Q/DQ in pairs of equal parameters; int8 with zero points that are there and
    zero; positive finite scales; one scale per tensor for activations, one per output channel and
    along the right axis for weights; no quantized bias; Q/DQ on exactly the planned inputs and
    nowhere behind a node; one scale for each group; no cast after a DequantizeLinear.

    Raises:
        RunError: Naming the first tensor or node that is not so.
    """
    check = _Check(model, placement)
    pairs = [n for n in check.wiring.nodes if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        check.parameters(node)
    for node in pairs:
        if node.op_type == "DequantizeLinear":
            check.pair(node)
    check.readers()
    for node in check.wiring.nodes:
        if node.name in placement.nodes:
            check.weights(node)
    check.groups()


class _Check:
    """The steps of :func:`check_quantized`, in their order."""

    def __init__(self, model: onnx.ModelProto, placement: Placement) -> None:
        from onnx import numpy_helper

        self.wiring = Wiring(model)
        self.placement = placement
        self.values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.tensors = set(placement.tensors)
        # Dequantized tensor -> what it was before, its scale's name and its axis.
        self.origin: dict[str, str] = {}
        self.scale: dict[str, str] = {}
        self.axis: dict[str, int | None] = {}

    def parameters(self, node: onnx.NodeProto) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise _broken(node.name, f"is of the domain {node.domain}")
        if len(node.input) != 3 or node.input[1] not in self.values:
            raise _broken(node.name, "has no stored scale and zero point")
        scale, zero = self.values[node.input[1]], self.values.get(node.input[2])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise _broken(node.name, "has a scale that is not above zero")
        if zero is None or zero.dtype != np.int8 or zero.any() or zero.shape != scale.shape:
            raise _broken(node.name, "has a zero point that is not int8 zero")

    def pair(self, node: onnx.NodeProto) -> None:
        first = self.wiring.producer.get(node.input[0])
        out, scale = node.output[0], node.input[1]
        if first is None or first.op_type != "QuantizeLinear":
            raise _broken(node.name, "does not follow a QuantizeLinear")
        axes = [next((a.i for a in n.attribute if a.name == "axis"), 1) for n in (first, node)]
        if list(first.input[1:]) != list(node.input[1:]) or axes[0] != axes[1]:
            raise _broken(node.name, "has other parameters than its QuantizeLinear")
        readers = self.wiring.consumers[first.output[0]]
        if any(reader.op_type != "DequantizeLinear" for reader in readers):
            raise _broken(first.name, "is read by more than DequantizeLinear")
        if any(reader.op_type == "Cast" for reader in self.wiring.after(node)):
            raise _broken(node.name, "is followed by a cast")
        if out in self.outputs:
            raise _broken(node.name, "is an output of the network")
        self.origin[out], self.scale[out] = first.input[0], scale
        self.axis[out] = axes[0] if self.values[scale].ndim else None

    def readers(self) -> None:
        planned, found = self.placement.edges, set()
        for node in self.wiring.nodes:
            for index, name in enumerate(node.input):
                source = self.origin.get(name)
                if source in self.values:
                    if index != 1 or node.name not in self.placement.nodes:
                        raise _broken(node.name, f"has quantized input {index} ({source})")
                elif source is not None:
                    found.add((self._plain(source), node.name))
                    if self.axis[name] is not None:
                        raise _broken(node.name, f"reads {source} with a scale per channel")
        for tensor, reader in sorted(planned ^ found):
            what = "not quantized" if (tensor, reader) in planned else "quantized unplanned"
            raise _broken(reader, f"reads {tensor}, which is {what}")

    def _plain(self, tensor: str) -> str:
        """The tensor's name in the model before: FP16 may have put a cast in front of Q/DQ."""
        maker = self.wiring.producer.get(tensor)
        if tensor not in self.tensors and maker is not None and maker.op_type == "Cast":
            return str(maker.input[0])
        return tensor

    def weights(self, node: onnx.NodeProto) -> None:
        weight = node.input[1]
        if weight not in self.origin:
            raise _broken(node.name, "has weights that are not quantized")
        shape = self.values[self.origin[weight]].shape
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        right = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if transposed else 1}
        axis = right.get(node.op_type, len(shape) - 1)
        scale = self.values[self.scale[weight]]
        along = self.axis[weight]
        if along is None or along % len(shape) != axis:
            raise _broken(node.name, f"has weight scales along axis {along}, not {axis}")
        if scale.shape != (shape[axis],):
            raise _broken(node.name, f"has {scale.size} weight scales for {shape[axis]} channels")
        if len(node.input) > 2 and node.input[2] and node.input[2] not in self.values:
            raise _broken(node.name, "has a bias that is not stored as it is")

    def groups(self) -> None:
        scales: dict[str, set[float]] = defaultdict(set)
        for name, source in self.origin.items():
            if source not in self.values:
                scales[self._plain(source)].add(float(self.values[self.scale[name]]))
        for group in self.placement.groups:
            if len(set().union(*(scales[tensor] for tensor in group))) > 1:
                raise _broken(sorted(group)[0], "does not share the scale of its concatenation")


def _broken(name: str, what: str) -> RunError:
    return RunError(
        f"the quantized graph is not what TensorRT takes: {name} {what}",
        hint="this onnxruntime's quantizer behaves otherwise; report its version",
    )
