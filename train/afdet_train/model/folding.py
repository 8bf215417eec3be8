"""Frozen batch norms folded into the convolutions before them, for faster training.

A frozen batch norm is a fixed scale and shift of each channel. Scaling the convolution's weights
instead gives the same outputs and the same gradients of the weights, without two passes over every
feature map. Only the forward functions change: modules, parameters and checkpoints stay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

#: Largest difference that counts as rounding, relative to each output's largest value.
_TOLERANCE = 1e-3


def fold_frozen_norms(network: nn.Module, frozen: Iterable[nn.Module], example: Tensor) -> int:
    """Folds the frozen batch norms of a network into their convolutions.

    A norm whose input is not the output of a convolution stays as it is.

    Args:
        network: Takes ``example``. Its norms may be ``BatchNorm2d`` or timm's ``BatchNormAct2d``.
        frozen: Modules that stay in eval mode and get no gradients, norms among them.
        example: Input [N, C, H, W], to see which norm follows which convolution.

    Returns:
        How many norms were folded; 0 if folding would change the outputs.

    A copy of the network made afterwards runs with the original's weights: copy first.
    """
    norms = [m for m in frozen if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not norms:
        return 0
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            before = _tensors(network(example))
            pairs = _find_pairs(network, norms, example)
            for conv, norm in pairs:
                _fold(conv, norm)
            after = _tensors(network(example))
    finally:
        for module, mode in modes.items():
            module.training = mode
    close = (
        float((a - b).abs().max()) <= _TOLERANCE * float(a.abs().max())
        for a, b in zip(before, after, strict=True)
    )
    if all(close):
        return len(pairs)
    for module in (m for pair in pairs for m in pair):
        del module.forward  # The class's own is back.
    return 0


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _find_pairs(
    network: nn.Module, norms: list[nn.BatchNorm2d], example: Tensor
) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each norm with the convolution whose output it takes."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []  # Keeps the tensors, so that none is reused.
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(conv: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        outputs.append((output, conv))

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        conv = next((c for output, c in outputs if output is inputs[0]), None)
        if conv is not None:
            pairs.append((conv, norm))

    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [conv.register_forward_hook(after_conv) for conv in convs]
    hooks += [norm.register_forward_pre_hook(before_norm) for norm in norms]
    network(example)
    for hook in hooks:
        hook.remove()
    uses = [conv for conv, _ in pairs]
    return [(conv, norm) for conv, norm in pairs if uses.count(conv) == 1]


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    # A second convolution of the same class that holds the scaled weights of one call.
    scaled = copy.copy(conv)
    scaled._parameters = {}

    def convolve(x: Tensor) -> Tensor:
        assert norm.running_var is not None
        assert norm.running_mean is not None
        # Not kept between calls: loading a checkpoint changes the statistics.
        factor = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight.detach()
        shift = -norm.running_mean * factor
        if norm.bias is not None:
            shift = shift + norm.bias.detach()
        if conv.bias is not None:
            shift = shift + conv.bias * factor
        scaled.__dict__["weight"] = conv.weight * factor[:, None, None, None]
        scaled.__dict__["bias"] = shift
        return type(conv).forward(scaled, x)

    def activate(x: Tensor) -> Tensor:
        for name in ("drop", "act"):  # timm's BatchNormAct2d.
            if isinstance(inner := getattr(norm, name, None), nn.Module):
                x = inner(x)
        return x

    conv.forward = convolve  # type: ignore[method-assign, assignment]
    norm.forward = activate  # type: ignore[method-assign, assignment]
