"""The parts of a detector that precision is chosen for: stem, stages, neck layers, heads."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.suggest import nearest

if TYPE_CHECKING:
    import onnx

#: Operators that carry weights.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: What exported weights are called, and how many to add to the number in the name.
_NAMES = (
    (re.compile(r"\bbackbone\.(?:conv_stem|stem|conv1)\b"), "stem", 0),
    (re.compile(r"\bbackbone\.(?:blocks|stages|features)[._](\d+)\b"), "stage{}", 1),
    (re.compile(r"\bbackbone\.layer(\d+)\b"), "stage{}", 0),
    (re.compile(r"\bneck\.inputs\b"), "neck/inputs", 0),
    (re.compile(r"\bneck\.layers\.(\d+)\b"), "neck{}", 1),
    (re.compile(r"\bheads\.cls"), "head/cls", 0),
    (re.compile(r"\bheads\.reg"), "head/reg", 0),
)


class Wiring:
    """Who makes (``producer``) and who reads (``consumers``) each tensor of a graph.

    ``nodes`` are in the order of the graph, which can be run; ``weights`` names the initializers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.weights = {tensor.name for tensor in model.graph.initializer}
        self.producer = {out: node for node in self.nodes for out in node.output if out}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """The inputs that are computed, not stored."""
        return [name for name in node.input if name and name not in self.weights]

    def after(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that read this one's outputs."""
        return [reader for out in node.output for reader in self.consumers[out]]


def blocks(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Every node's name by block, the blocks in the order of the graph.

    Exported weights carry their module's name. Weights without one (folding gives new names) go by
    what the graph says: to a head if they lead to its outputs alone, else with the next named ones
    downstream. In a model without any names, blocks are what has the same stride ("stride8").
    """
    labels = _labels(model)
    result: dict[str, list[str]] = {}
    for node in model.graph.node:
        result.setdefault(labels[node.name], []).append(node.name)
    return result


def expand(model: onnx.ModelProto, names: Iterable[str]) -> set[str]:
    """Names of blocks and of nodes -> names of nodes; an InvalidValueError if one is neither."""
    parts = blocks(model)
    known = {name: [name] for members in parts.values() for name in members} | parts
    result: set[str] = set()
    for name in names:
        if name not in known:
            raise InvalidValueError(
                "the model has no block or node of that name",
                got=name,
                hint=nearest(name, parts) or f"its blocks are {', '.join(parts)}",
            )
        result.update(known[name])
    return result


def _labels(model: onnx.ModelProto) -> dict[str, str]:
    """Node name -> block."""
    wiring = Wiring(model)
    heads = _leads_to(wiring, model)
    labels: dict[str, str] = {}
    for node in wiring.nodes:
        if label := _named(node, wiring.weights):
            labels[node.name] = label
        elif len(heads[node.name]) == 1:
            labels[node.name] = f"head/{next(iter(heads[node.name]))}"
    named_body = any(len(heads[name]) > 1 for name in labels)
    strides = {} if named_body else _strides(model)
    for node in reversed(wiring.nodes):
        weighted = node.op_type in WEIGHTED and node.name not in labels and not strides
        if weighted and (label := _downstream(wiring, node, labels)):
            labels[node.name] = label
    order = {node.name: index for index, node in enumerate(wiring.nodes)}
    for node in wiring.nodes:
        if node.name not in labels:
            sources = {wiring.producer[n].name for n in node.input if n in wiring.producer}
            last = max(sources & labels.keys(), key=order.__getitem__, default=None)
            inherited = "body" if last is None else labels[last]
            labels[node.name] = strides.get(node.output[0], inherited)
    return labels


def _named(node: onnx.NodeProto, weights: set[str]) -> str | None:
    if node.op_type not in WEIGHTED:
        return None
    for name in filter(weights.__contains__, node.input[1:]):
        for pattern, label, shift in _NAMES:
            if found := pattern.search(name):
                return label.format(int(found[1]) + shift if found.groups() else 0)
    return None


def _leads_to(wiring: Wiring, model: onnx.ModelProto) -> Mapping[str, set[str]]:
    """Node name -> kinds of outputs downstream of it: of "cls" and "reg"."""
    outputs = {value.name for value in model.graph.output}
    kinds: dict[str, set[str]] = {}
    for node in reversed(wiring.nodes):
        own = {out.partition("_")[0] for out in node.output if out in outputs}
        kinds[node.name] = own.union(*(kinds[reader.name] for reader in wiring.after(node)))
    return kinds


def _downstream(wiring: Wiring, node: onnx.NodeProto, labels: Mapping[str, str]) -> str | None:
    """The label of the nearest labelled node with weights after this one."""
    seen: set[str] = set()
    front = [node]
    while front:
        front = [n for near in front for n in wiring.after(near) if n.name not in seen]
        seen.update(reader.name for reader in front)
        for reader in front:
            if reader.op_type in WEIGHTED and reader.name in labels:
                return labels[reader.name]
    return None


def _strides(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor name -> "stride8" and the like, where its rows are known."""
    height = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    result = {}
    for value in (*model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        rows = dims[2].dim_value if len(dims) == 4 else 0
        if rows and height % rows == 0:
            result[value.name] = f"stride{height // rows}"
    return result
