"""Heads: one class subnet and one box subnet; all levels share them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afdet_train.model.necks import batch_norm

#: Initial bias of the last box convolution: each activation starts at 0.1 (units of S * 2^l).
_REG_BIAS = {"relu": 0.1, "softplus": math.log(math.expm1(0.1)), "exp": math.log(0.1)}


class Tower(nn.Module):
    """``depth`` 3x3 convolutions of constant width, ReLU after each.

    The levels share the convolutions. With ``norm="bn"`` each level has separate statistics,
    because the activations of the levels differ.
    """

    def __init__(self, width: int, depth: int, norm: str, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=norm == "none") for _ in range(depth)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.norms = nn.ModuleList()
        if norm == "bn":
            self.norms.extend(
                nn.ModuleList(batch_norm(width) for _ in range(levels)) for _ in range(depth)
            )
        elif norm == "gn":
            self.norms.extend(
                nn.ModuleList([nn.GroupNorm(math.gcd(32, width), width)]) for _ in range(depth)
            )

    def forward(self, x: Tensor, level: int) -> Tensor:
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if len(self.norms):
                norms = self.norms[index]
                assert isinstance(norms, nn.ModuleList)
                x = norms[level if len(norms) > 1 else 0](x)
            x = F.relu(x)
        return x


class Heads(nn.Module):
    """Class logits and distances of every level.

    Args:
        width: Channels of the neck.
        num_classes: K.
        depth: Number of convolutions before the last one.
        norm: ``none``, ``bn`` (per level) or ``gn``.
        reg_activation: ``relu`` (the paper's ancestors), ``softplus`` or ``exp``.
        levels: Number of pyramid levels.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        depth: int = 3,
        norm: str = "none",
        reg_activation: str = "relu",
        levels: int = 5,
    ) -> None:
        super().__init__()
        self.cls_tower = Tower(width, depth, norm, levels)
        self.reg_tower = Tower(width, depth, norm, levels)
        self.cls_out = nn.Conv2d(width, num_classes, 3, padding=1)
        self.reg_out = nn.Conv2d(width, 4, 3, padding=1)
        self.reg_activation = reg_activation
        assert self.cls_out.bias is not None
        assert self.reg_out.bias is not None
        nn.init.normal_(self.cls_out.weight, std=0.01)
        nn.init.constant_(self.cls_out.bias, -math.log(99.0))
        nn.init.normal_(self.reg_out.weight, std=0.01)
        nn.init.constant_(self.reg_out.bias, _REG_BIAS[reg_activation])

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of the levels -> logits [N, K, h, w] and distances [N, 4, h, w] of each level."""
        logits, distances = [], []
        for level, x in enumerate(maps):
            logits.append(self.cls_out(self.cls_tower(x, level)))
            distances.append(self._activate(self.reg_out(self.reg_tower(x, level))))
        return logits, distances

    def _activate(self, x: Tensor) -> Tensor:
        if self.reg_activation == "relu":
            return F.relu(x)
        if self.reg_activation == "softplus":
            return F.softplus(x)
        # The bound of 2^8 units of S * 2^l is wider than any input and keeps FP16 finite.
        return torch.exp(x.clamp(max=5.5))
