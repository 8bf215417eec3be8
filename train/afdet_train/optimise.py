"""Optimiser, schedule, weight averaging and freezing: pure functions of the recipe."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from afdet_train.config import FreezeConfig, OptimConfig
from afdet_train.model import AnchorFreeDetector
from afdet_train.model.folding import fold_frozen_norms


def freeze(detector: AnchorFreeDetector, config: FreezeConfig) -> None:
    """Turns gradients off for the frozen parameters."""
    for module in _frozen_modules(detector, config):
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def train_mode(detector: AnchorFreeDetector, config: FreezeConfig) -> None:
    """``train()``, but frozen modules stay in eval mode, so their statistics do not change."""
    detector.train()
    for module in _frozen_modules(detector, config):
        module.eval()


def fold_norms(detector: AnchorFreeDetector, config: FreezeConfig) -> None:
    """Runs the backbone's frozen norms as part of their convolutions."""
    frozen = {m for part in _frozen_modules(detector, config) for m in part.modules()}
    weight = next(detector.parameters())
    example = torch.linspace(-2, 2, 3 * 128 * 128, device=weight.device).view(1, 3, 128, 128)
    fold_frozen_norms(detector.backbone, frozen, example)


def _frozen_modules(detector: AnchorFreeDetector, config: FreezeConfig) -> list[nn.Module]:
    """What the recipe freezes: modules in eval mode, without gradients."""
    frozen: list[nn.Module] = []
    backbone = detector.backbone
    if config.backbone:
        frozen.append(backbone)
    elif config.backbone_stages:
        frozen += _first_stages(backbone, config.backbone_stages)
    scope: nn.Module | None = {"none": None, "backbone": backbone, "all": detector}[
        config.batch_norm
    ]
    if scope is not None:
        norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
        frozen += [m for m in scope.modules() if isinstance(m, norms)]
    return frozen


def _first_stages(backbone: nn.Module, count: int) -> list[nn.Module]:
    """Stem and first stages, by timm's names in EfficientNets and ResNets."""
    children = dict(backbone.named_children())
    stem = [m for n, m in children.items() if n in ("conv_stem", "conv1", "bn1")]
    if "blocks" in children:
        return stem + list(children["blocks"].children())[:count]
    return stem + [m for n, m in children.items() if n.startswith("layer")][:count]


def build_optimizer(detector: AnchorFreeDetector, config: OptimConfig) -> torch.optim.Optimizer:
    """Parameter groups: only convolution and linear weights decay; the backbone's rate differs."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    params = [
        {
            "params": tensors,
            "lr": config.lr,
            "factor": config.backbone_lr_factor if in_backbone else 1.0,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), tensors in sorted(groups.items())
    ]
    if config.name == "sgd":
        return torch.optim.SGD(params, lr=config.lr, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(params, lr=config.lr, fused=True)


def learning_rate(config: OptimConfig, iteration: int, total: int) -> float:
    """The rate of one iteration. It depends only on the iteration, so resumed runs agree."""
    if iteration < config.warmup_iterations:
        return config.lr * (iteration + 1) / (config.warmup_iterations + 1)
    share = (iteration - config.warmup_iterations) / max(1, total - config.warmup_iterations)
    if config.schedule == "cosine":
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        return config.lr * (config.final_factor + (1 - config.final_factor) * cosine)
    if config.schedule == "steps":
        return config.lr * 0.1 ** sum(share >= m for m in config.milestones)
    return config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors: ``<parameter>.<name>``."""
    return {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        # The fused step goes through memory in order, so states need their parameter's strides.
        if tensor.shape == parameters[int(index)].shape:
            tensor = torch.empty_like(parameters[int(index)], dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    raw = optimizer.state_dict()
    raw["state"] = state
    optimizer.load_state_dict(raw)


class WeightAverage:
    """Exponential moving average of all weights and statistics (Mean-Teacher warm-up)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {n: t.detach().clone() for n, t in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, iteration: int) -> None:
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        own: list[Tensor] = []
        new: list[Tensor] = []
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                own.append(self.tensors[name])
                new.append(tensor.detach())
            else:
                self.tensors[name].copy_(tensor)
        torch._foreach_lerp_(own, new, 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)
