"""Where Q/DQ go, so that TensorRT makes INT8 kernels of them and accuracy survives.

NVIDIA's rules: every input of a convolution or matrix product, not its output (what follows keeps
floating point); the shortcut of a residual addition, so that it can join the convolution's kernel;
one scale for all inputs of a concatenation. Floating point stay: convolutions of fewer than 16
channels, depthwise ones whose channels are not a multiple of 8 or whose kernel is below 3,
squeeze-and-excite, and the last convolution of each head.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trt_afdet.engine.precision.blocks import WEIGHTED, Wiring

if TYPE_CHECKING:
    import onnx

FEWEST_CHANNELS = 16
_POOLS = ("GlobalAveragePool", "ReduceMean", "GlobalMaxPool")


@dataclass(frozen=True)
class Placement:
    """Which tensors are quantized.

    ``nodes`` are the convolutions and matrix products that run in INT8, in order; ``reasons`` say
    why each other one does not. ``edges`` are (tensor, reader) pairs that go through Q/DQ: data
    inputs, shortcuts and inputs of concatenations, not weights. ``groups`` share a scale.
    """

    nodes: tuple[str, ...]
    edges: frozenset[tuple[str, str]]
    groups: tuple[frozenset[str], ...]
    reasons: dict[str, str]

    @property
    def tensors(self) -> list[str]:
        """Every tensor that needs a range."""
        return sorted({tensor for tensor, _ in self.edges})


def place(model: onnx.ModelProto, keep: Collection[str] = ()) -> Placement:
    """Chooses what is quantized in a canonical FP32 model; the nodes of ``keep`` are not."""
    wiring = Wiring(model)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    gates = _squeeze_excite(wiring)
    inner = _leading_to_weights(wiring)
    chosen: list[str] = []
    edges: set[tuple[str, str]] = set()
    reasons = {}
    for node in wiring.nodes:
        if node.op_type not in WEIGHTED:
            continue
        reason = _unfit(node, shapes)
        if node.name in keep:
            reason = "kept"
        elif node.name not in inner:
            reason = "last convolution of a head"
        elif node.name in gates:
            reason = "squeeze-and-excite"
        if reason is None:
            chosen.append(node.name)
            edges.add((node.input[0], node.name))
        else:
            reasons[node.name] = reason
    edges |= _shortcuts(wiring, chosen, keep)
    quantized = {tensor for tensor, _ in edges}
    groups = []
    for node in wiring.nodes:
        if node.op_type == "Concat" and node.output[0] in quantized and node.name not in keep:
            inputs = wiring.data_inputs(node)
            groups.append({*inputs, node.output[0]})
            edges |= {(name, node.name) for name in inputs}
    merged = tuple(map(frozenset, _merged(groups)))
    return Placement(tuple(chosen), frozenset(edges), merged, reasons)


def _unfit(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Why a node cannot gain from INT8, if so."""
    shape = shapes.get(node.input[1])
    if shape is None or len(shape) < 2:
        return "its weights are computed"
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type in ("Gemm", "MatMul"):
        ins, outs = shape[-2:]
    elif node.op_type == "Conv":
        outs, ins = shape[0], shape[1] * group
    else:
        ins, outs = shape[0], shape[1] * group
    if group > 1 and group == ins:
        if outs % 8:
            return "depthwise with channels that 8 does not divide"
        return "depthwise of a kernel below 3" if min(shape[2:]) < 3 else None
    few = min(ins, outs) // group < FEWEST_CHANNELS
    return f"fewer than {FEWEST_CHANNELS} channels" if few else None


def _squeeze_excite(wiring: Wiring) -> set[str]:
    """Nodes of gates: between a pooling over the whole map and where it meets the map again."""
    result: set[str] = set()
    tensors: set[str] = set()
    for node in wiring.nodes:
        data = wiring.data_inputs(node)
        if node.op_type in _POOLS or (data and tensors.issuperset(data)):
            result.add(node.name)
            tensors.update(node.output)
    return result


def _leading_to_weights(wiring: Wiring) -> set[str]:
    """Nodes with another convolution or matrix product somewhere downstream."""
    result: set[str] = set()
    for node in reversed(wiring.nodes):
        if any(n.op_type in WEIGHTED or n.name in result for n in wiring.after(node)):
            result.add(node.name)
    return result


def _shortcuts(
    wiring: Wiring, chosen: Collection[str], keep: Collection[str]
) -> set[tuple[str, str]]:
    """The other input of each addition that can join a quantized convolution's kernel.

    It can if nothing else reads the convolution's result. Where both inputs are such results, the
    earlier one is the shortcut.
    """
    order = {out: index for index, node in enumerate(wiring.nodes) for out in node.output}
    made = {out for node in wiring.nodes if node.name in chosen for out in node.output}
    result = set()
    for node in wiring.nodes:
        data = wiring.data_inputs(node)
        if node.op_type == "Add" and len(data) == 2 and node.name not in keep:
            fused = [name for name in data if name in made and len(wiring.consumers[name]) == 1]
            if fused:
                last = max(fused, key=order.__getitem__)
                result.add((data[1] if data[0] == last else data[0], node.name))
    return result


def _merged(groups: Collection[set[str]]) -> list[set[str]]:
    """Groups joined where they share a member."""
    result: list[set[str]] = []
    for group in groups:
        touching = [other for other in result if other & group]
        result = [other for other in result if not other & group] + [group.union(*touching)]
    return result
