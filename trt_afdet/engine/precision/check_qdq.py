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
    _Check(model, placement).run()


class _Check:
    """One pass of :func:`check_quantized`."""

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

    def run(self) -> None:
        for node in self.wiring.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._parameters(node)
        for node in self.wiring.nodes:
            if node.op_type == "DequantizeLinear":
                self._pair(node)
        self._readers()
        nodes = {node.name: node for node in self.wiring.nodes}
        for name in self.placement.nodes:
            self._weights(nodes[name])
        self._groups()

    def _parameters(self, node: onnx.NodeProto) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise _broken(node.name, f"is of the domain {node.domain}")
        if len(node.input) != 3 or node.input[1] not in self.values:
            raise _broken(node.name, "has no stored scale and zero point")
        scale, zero = self.values[node.input[1]], self.values.get(node.input[2])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise _broken(node.name, "has a scale that is not above zero")
        if zero is None or zero.dtype != np.int8 or zero.any() or zero.shape != scale.shape:
            raise _broken(node.name, "has a zero point that is not int8 zero")

    def _pair(self, node: onnx.NodeProto) -> None:
        first = self.wiring.producer.get(node.input[0])
        if first is None or first.op_type != "QuantizeLinear":
            raise _broken(node.name, "does not follow a QuantizeLinear")
        axes = [_axis(n) for n in (first, node)]
        if list(first.input[1:]) != list(node.input[1:]) or axes[0] != axes[1]:
            raise _broken(node.name, "has other parameters than its QuantizeLinear")
        readers = self.wiring.consumers[first.output[0]]
        if any(reader.op_type != "DequantizeLinear" for reader in readers):
            raise _broken(first.name, "is read by more than DequantizeLinear")
        source = first.input[0]
        if any(reader.op_type == "Cast" for reader in self.wiring.after(node)):
            raise _broken(node.name, "is followed by a cast")
        if node.output[0] in self.outputs:
            raise _broken(node.name, "is an output of the network")
        self.origin[node.output[0]] = source
        self.scale[node.output[0]] = node.input[1]
        self.axis[node.output[0]] = axes[0] if self.values[node.input[1]].ndim else None

    def _readers(self) -> None:
        planned = set(self.placement.edges)
        found = set()
        for node in self.wiring.nodes:
            for index, name in enumerate(node.input):
                if name not in self.origin:
                    continue
                source = self.origin[name]
                if source in self.values and index == 1 and node.name in self.placement.nodes:
                    continue
                if source in self.values:
                    raise _broken(node.name, f"has quantized input {index} ({source})")
                found.add((self._plain(source), node.name))
                if self.axis[name] is not None:
                    raise _broken(node.name, f"reads {source} with a scale per channel")
        different = sorted(planned ^ found)
        if different:
            tensor, reader = different[0]
            what = "is not quantized" if different[0] in planned else "is quantized unplanned"
            raise _broken(reader, f"reads {tensor}, which {what}")

    def _plain(self, tensor: str) -> str:
        """The tensor's name in the model before: FP16 may have put a cast in front of Q/DQ."""
        maker = self.wiring.producer.get(tensor)
        if tensor not in self.tensors and maker is not None and maker.op_type == "Cast":
            return str(maker.input[0])
        return tensor

    def _weights(self, node: onnx.NodeProto) -> None:
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

    def _groups(self) -> None:
        scales: dict[str, set[float]] = defaultdict(set)
        for name, source in self.origin.items():
            if source not in self.values:
                tensor = self._plain(source)
                scales[tensor].add(float(self.values[self.scale[name]]))
        for group in self.placement.groups:
            found = set().union(*(scales.get(tensor, set()) for tensor in group))
            if len(found) > 1:
                raise _broken(sorted(group)[0], "does not share the scale of its concatenation")


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)


def _broken(name: str, what: str) -> RunError:
    return RunError(
        f"the quantized graph is not what TensorRT takes: {name} {what}",
        hint="this onnxruntime's quantizer behaves otherwise; report its version",
    )
