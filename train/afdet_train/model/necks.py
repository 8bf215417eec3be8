"""Necks as data: a layer is a list of nodes, and a node is a list of sources.

``bifpn`` is the graph of the paper's Eq. (2), which is denser than EfficientDet's; ``fpn``,
``panet`` and ``none`` are the other columns of the paper's Table 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trt_afdet.errors import InvalidValueError

#: Keras' epsilon. The recipe sets the momentum for the whole network.
BN_EPS = 1e-3

LEVELS = (3, 4, 5, 6, 7)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS)


@dataclass(frozen=True)
class Node:
    """One fusion node. Its name and those of its sources end with their level."""

    name: str
    sources: tuple[str, ...]

    @property
    def level(self) -> int:
        return int(self.name[-1])


def _graph(*lines: str) -> tuple[Node, ...]:
    pairs = (line.split(" = ") for line in lines)
    return tuple(Node(name, tuple(sources.split())) for name, sources in pairs)


#: One layer of each neck. Sources of other levels are resampled to the node's level. A level
#: without an ``out`` node returns its input.
GRAPHS: dict[str, tuple[Node, ...]] = {
    "none": (),
    "fpn": _graph(
        "out6 = in6 in7",
        "out5 = in5 out6",
        "out4 = in4 out5",
        "out3 = in3 out4",
    ),
    "panet": _graph(
        "td6 = in6 in7",
        "td5 = in5 td6",
        "td4 = in4 td5",
        "out3 = in3 td4",
        "out4 = td4 out3",
        "out5 = td5 out4",
        "out6 = td6 out5",
        "out7 = in7 out6",
    ),
    "bifpn": _graph(
        "td6 = in6 in7",
        "td5 = in5 in6 td6",
        "td4 = in4 in5 td5",
        "out3 = in3 in4 td4",
        "out4 = in4 td4 td5 out3",
        "out5 = in5 td5 td6 out4",
        "out6 = in6 td6 in7 out5",
        "out7 = in7 out6",
    ),
}


def resample(x: Tensor, source: int, target: int) -> Tensor:
    """Resamples a map from level ``source`` to ``target``: nearest up, max-pool 3/2 down."""
    for _ in range(target, source):
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    for _ in range(source, target):
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    return x


class Fusion(nn.Module):
    """Fast normalised fusion, Eq. (1): sum of w_i I_i / (sum of w_j + 1e-4), w = ReLU(w)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count))

    def forward(self, inputs: list[Tensor]) -> Tensor:
        weight = F.relu(self.weight)
        weight = weight / (weight.sum() + 1e-4)
        total = inputs[0] * weight[0]
        for index in range(1, len(inputs)):
            total = total + inputs[index] * weight[index]
        return total


class Sum(nn.Module):
    """Fusion by a plain sum."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return sum(inputs[1:], inputs[0])


class FusionNode(nn.Module):
    """Fuse, depthwise 3x3, pointwise 1x1, batch norm, ReLU (or swish before the convolutions)."""

    def __init__(self, sources: int, width: int, *, weighted: bool, activation: str) -> None:
        super().__init__()
        self.fuse: nn.Module = Fusion(sources) if weighted else Sum()
        self.before: nn.Module = nn.SiLU() if activation == "swish_before" else nn.Identity()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn = batch_norm(width)
        self.after: nn.Module = nn.ReLU() if activation == "relu_after" else nn.Identity()

    def forward(self, inputs: list[Tensor]) -> Tensor:
        x = self.before(self.fuse(inputs))
        return self.after(self.bn(self.pointwise(self.depthwise(x))))


class NeckLayer(nn.Module):
    """One pass over a graph, from five maps to five maps."""

    def __init__(
        self, graph: tuple[Node, ...], width: int, *, weighted: bool, activation: str
    ) -> None:
        super().__init__()
        self.graph = graph
        self.nodes = nn.ModuleDict(
            {
                node.name: FusionNode(
                    len(node.sources), width, weighted=weighted, activation=activation
                )
                for node in graph
            }
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        maps = {f"in{level}": x for level, x in zip(LEVELS, inputs, strict=True)}
        resampled: dict[tuple[str, int], Tensor] = {}

        def fetch(source: str, level: int) -> Tensor:
            own = int(source[-1])
            if own == level:
                return maps[source]
            if (source, level) not in resampled:
                resampled[source, level] = resample(maps[source], own, level)
            return resampled[source, level]

        for node in self.graph:
            maps[node.name] = self.nodes[node.name](
                [fetch(source, node.level) for source in node.sources]
            )
        return [maps.get(f"out{level}", maps[f"in{level}"]) for level in LEVELS]


class LevelInputs(nn.Module):
    """P3..P7 from C3..C5: one 1x1 projection per level, P6 and P7 by max-pooling."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        c3, c4, c5 = channels
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), batch_norm(width))
            for c in (c3, c4, c5, c5)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        c3, c4, c5 = features
        p3, p4, p5, p6 = (p(x) for p, x in zip(self.project, (c3, c4, c5, c5), strict=True))
        p6 = resample(p6, 5, 6)
        return [p3, p4, p5, p6, resample(p6, 6, 7)]


class Neck(nn.Module):
    """Projects the inputs to the five levels, then applies the graph ``repeats`` times.

    Args:
        channels: Channels of C3, C4, C5.
        name: A key of :data:`GRAPHS`.
        width: Channels of every level.
        repeats: Number of layers.
        weighted: Use learnt fusion weights (Eq. 1) instead of a plain sum.
        activation: ``relu_after`` or ``swish_before``.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        name: str = "bifpn",
        width: int = 64,
        repeats: int = 3,
        *,
        weighted: bool = True,
        activation: str = "relu_after",
    ) -> None:
        super().__init__()
        if name not in GRAPHS:
            raise InvalidValueError("unknown neck", got=name, hint=", ".join(GRAPHS))
        self.inputs = LevelInputs(channels, width)
        self.layers = nn.ModuleList(
            NeckLayer(GRAPHS[name], width, weighted=weighted, activation=activation)
            for _ in range(repeats if GRAPHS[name] else 0)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = self.inputs(features)
        for layer in self.layers:
            maps = layer(maps)
        return maps
