"""Which type each layer with weights computes in: in an ONNX file, a typed network, an engine.

Types have TensorRT's names: "INT8", "HALF", "FLOAT". Layers are named by their ONNX nodes, so what
was planned and what came out can be compared one by one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trt_afdet.engine.precision.blocks import WEIGHTED, Wiring, blocks
from trt_afdet.errors import RunError

if TYPE_CHECKING:
    import onnx

    from trt_afdet.trt.versions import Flavour

#: What each precision asks for.
ASKED = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}

#: Of fewer layers than this share in the type that was asked for, an engine is not what was asked.
LEAST_SHARE = 0.5

#: TensorRT's layers that ONNX's weighted operators become.
_KINDS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")

#: Size of a type, to say which of two is larger.
_BYTES = {"INT8": 1, "FP8": 1, "HALF": 2, "BF16": 2, "FLOAT": 4}

#: How the engine inspector of any version writes types, first match first.
_WRITTEN = (
    (re.compile(r"bf16|bfloat16", re.I), "BF16"),
    (re.compile(r"fp8", re.I), "FP8"),
    (re.compile(r"int8", re.I), "INT8"),
    (re.compile(r"fp16|half", re.I), "HALF"),
    (re.compile(r"fp32|float", re.I), "FLOAT"),
)

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Precisions:
    """Types of layers, read back: ONNX node -> type.

    ``block`` tells the block of each node, of nodes outside ``types`` too; ``source`` is "onnx",
    "network" or "engine".
    """

    types: Mapping[str, str]
    block: Mapping[str, str]
    source: str

    def layers(self) -> dict[str, int]:
        """Number of layers by type, small types first."""
        return _counts(self.types.values())

    def groups(self) -> dict[str, dict[str, int]]:
        """The same for each block, in the order of the network."""
        found: dict[str, list[str]] = {}
        for node, kind in self.types.items():
            found.setdefault(self.block.get(node, "other"), []).append(kind)
        order = dict.fromkeys((*self.block.values(), "other"))
        return {name: _counts(found[name]) for name in order if name in found}

    def fallback(self, planned: Mapping[str, str]) -> tuple[str, ...]:
        """Blocks with layers of a larger type than planned: "neck1: 2 of 12 in FLOAT, not HALF"."""
        larger: Counter[tuple[str, str, str]] = Counter()
        for node, kind in self.types.items():
            want = planned.get(node, kind)
            if _BYTES.get(kind, 4) > _BYTES.get(want, 4):
                larger[self.block.get(node, "other"), kind, want] += 1
        groups = self.groups()
        return tuple(
            f"{block}: {count} of {sum(groups[block].values())} in {kind}, not {want}"
            for (block, kind, want), count in larger.items()
        )

    def share(self, asked: str, planned: Mapping[str, str]) -> float:
        """Share of the layers planned in the asked type that are in it or in a smaller one: 0 to 1.

        It is 0 if no layer was planned so.
        """
        kind = ASKED[asked]
        meant = [self.types[n] for n, p in planned.items() if p == kind and n in self.types]
        return sum(_BYTES.get(t, 4) <= _BYTES[kind] for t in meant) / max(len(meant), 1)


def _counts(types: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(types).items(), key=lambda item: (_BYTES.get(item[0], 9), item[0])))


def node_blocks(model: onnx.ModelProto) -> dict[str, str]:
    """ONNX node -> block, of the nodes with weights."""
    label = {node: block for block, nodes in blocks(model).items() for node in nodes}
    return {n.name: label[n.name] for n in model.graph.node if n.op_type in WEIGHTED}


def of_model(model: onnx.ModelProto, block: Mapping[str, str] | None = None) -> Precisions:
    """Types that a canonical or converted ONNX model asks for, with NMS or without.

    ``block`` tells the block of the canonical model's nodes; this model's own by default.
    """
    block = node_blocks(model) if block is None else block
    wiring = Wiring(model)
    types = _tensor_types(model.graph)
    found = {}
    for node in wiring.nodes:
        if node.name in block:
            makers = [wiring.producer.get(name) for name in node.input[:2]]
            quantized = all(maker and maker.op_type == "DequantizeLinear" for maker in makers)
            known = (types[name] for name in (*node.input, *node.output) if name in types)
            found[node.name] = "INT8" if quantized else next(known, "?")
    return Precisions(found, block, "onnx")


def _tensor_types(graph: onnx.GraphProto) -> dict[str, str]:
    from onnx import TensorProto

    names = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16"}
    types = {t.name: names.get(t.data_type, "?") for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        types[value.name] = names.get(value.type.tensor_type.elem_type, "?")
    return types


def of_network(flavour: Flavour, network: Any, block: Mapping[str, str]) -> Precisions:
    """Types of a parsed network, which are the engine's if it is strongly typed.

    A layer is INT8 if its data and its weights come from a DequantizeLinear: that pair is what
    TensorRT makes an INT8 kernel of.
    """
    from trt_afdet.trt.versions import enum_name

    maker = {t.name: layer for layer in flavour.layers(network) for t in flavour.outputs(layer)}

    def quantized(tensor: Any) -> bool:
        layer = maker.get(tensor.name)
        # Between the two there may be a change of shape.
        while layer is not None and flavour.kind(layer) == "SHUFFLE":
            layer = maker.get(flavour.inputs(layer)[0].name)
        return layer is not None and flavour.kind(layer) == "DEQUANTIZE"

    found = {}
    for layer in flavour.layers(network):
        node = flavour.onnx_node(layer)
        if flavour.kind(layer) not in _KINDS or node not in block:
            continue
        # A stored weight is not a tensor.
        inputs = [t for t in flavour.inputs(layer)[:2] if t is not None]
        int8 = len(inputs) == 2 and all(map(quantized, inputs))
        found[node] = "INT8" if int8 else enum_name(inputs[0].dtype)
    return Precisions(found, block, "network")


def of_engine(text: str, block: Mapping[str, str]) -> Precisions:
    """Types of a built engine, from its inspector's JSON of detailed layers.

    Raises:
        RunError: If it tells of fewer layers with weights than :data:`LEAST_SHARE` of them.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError("TensorRT's engine inspector gave no readable answer") from error
    found = {}
    for layer in layers:
        # Without details, a layer is only a name.
        if isinstance(layer, dict) and (kind := _computes_in(layer)):
            found.update(dict.fromkeys(_nodes(layer) & block.keys(), kind))
    if not found:
        raise RunError(
            "TensorRT's engine inspector does not tell the types of the layers",
            hint="the engine was built without detailed profiling verbosity",
        )
    if len(found) < LEAST_SHARE * len(block):
        raise RunError(
            "TensorRT's engine inspector tells the types of too few layers",
            got=f"{len(found)} of {len(block)} with weights",
        )
    return Precisions(found, block, "engine")


def _nodes(layer: Mapping[str, Any]) -> set[str]:
    """ONNX nodes that were fused into a layer."""
    names = {part.strip() for part in str(layer.get("Name", "")).split(" + ")}
    return names.union(_NODE.findall(str(layer.get("Metadata", ""))))


def _computes_in(layer: Mapping[str, Any]) -> str | None:
    """The type of a layer's weights or else of its first input.

    A copy into another format is named like what it is for, and computes nothing.
    """
    if str(layer.get("LayerType", "")) in ("Reformat", "NoOp", "Constant"):
        return None
    weights = layer.get("Weights")
    told = [str(weights.get("Type", ""))] if isinstance(weights, dict) else []
    inputs = layer.get("Inputs")
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        told += [str(v) for k, v in inputs[0].items() if "datatype" in k.lower()]
    kinds = (kind for text in told for pattern, kind in _WRITTEN if pattern.search(text))
    return next(kinds, None)
