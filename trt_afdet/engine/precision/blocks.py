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
    """Who makes and who reads each tensor of a graph.

    Attributes:
        nodes: In the order of the graph, which can be run.
        producer: Tensor name -> the node that makes it.
        consumers: Tensor name -> the nodes that read it.
        weights: Names of the initializers.
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


def block_of(model: onnx.ModelProto, node: str) -> str:
    """The block of one node.

    Raises:
        InvalidValueError: If the model has no such node.
    """
    labels = _labels(model)
    if node not in labels:
        raise InvalidValueError("the model has no such node", got=node, hint=nearest(node, labels))
    return labels[node]


def expand(model: onnx.ModelProto, names: Iterable[str]) -> set[str]:
    """Names of blocks and of nodes -> names of nodes.

    Raises:
        InvalidValueError: If a name is neither.
    """
    parts = blocks(model)
    known = {name for members in parts.values() for name in members}
    result: set[str] = set()
    for name in names:
        if name in parts:
            result.update(parts[name])
        elif name in known:
            result.add(name)
        else:
            raise InvalidValueError(
                "the model has no block or node of that name",
                got=name,
                hint=nearest(name, parts) or f"its blocks are {', '.join(parts)}",
            )
    return result


def _labels(model: onnx.ModelProto) -> dict[str, str]:
    """Node name -> block."""
    wiring = Wiring(model)
    heads = _leads_to(wiring, model)
    labels: dict[str, str] = {}
    for node in wiring.nodes:
        label = _named(node, wiring.weights)
        if label is None and len(heads[node.name]) == 1:
            label = f"head/{next(iter(heads[node.name]))}"
        if label is not None:
            labels[node.name] = label
    strides = {} if labels.keys() & _body(wiring, heads) else _strides(model)
    for node in reversed(wiring.nodes):
        if node.name not in labels and node.op_type in WEIGHTED and not strides:
            label = _downstream(wiring, node, labels)
            if label is not None:
                labels[node.name] = label
    order = {node.name: index for index, node in enumerate(wiring.nodes)}
    for node in wiring.nodes:
        if node.name not in labels:
            sources = {wiring.producer[n].name for n in node.input if n in wiring.producer}
            last = max(sources & labels.keys(), key=lambda name: order[name], default=None)
            inherited = "body" if last is None else labels[last]
            labels[node.name] = strides.get(node.output[0], inherited)
    return labels


def _named(node: onnx.NodeProto, weights: set[str]) -> str | None:
    if node.op_type not in WEIGHTED:
        return None
    for name in node.input[1:]:
        for pattern, label, shift in _NAMES if name in weights else ():
            found = pattern.search(name)
            if found:
                number = int(found.group(1)) + shift if found.groups() else 0
                return label.format(number)
    return None


def _leads_to(wiring: Wiring, model: onnx.ModelProto) -> Mapping[str, set[str]]:
    """Node name -> kinds of outputs downstream of it: of "cls" and "reg"."""
    outputs = {value.name for value in model.graph.output}
    kinds: dict[str, set[str]] = {}
    for node in reversed(wiring.nodes):
        own = {out.partition("_")[0] for out in node.output if out in outputs}
        kinds[node.name] = own.union(*(kinds[reader.name] for reader in wiring.after(node)))
    return kinds


def _body(wiring: Wiring, heads: Mapping[str, set[str]]) -> set[str]:
    """Nodes that lead to both kinds of heads."""
    return {node.name for node in wiring.nodes if len(heads[node.name]) > 1}


def _downstream(wiring: Wiring, node: onnx.NodeProto, labels: Mapping[str, str]) -> str | None:
    """The label of the nearest labelled node with weights after this one."""
    seen: set[str] = set()
    front = [node]
    while front:
        front = [reader for near in front for reader in wiring.after(near)]
        front = [reader for reader in front if reader.name not in seen]
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
