"""The whole network: backbone -> neck -> heads."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from afdet_train.config import ModelConfig
from afdet_train.model.backbones import build_backbone, normalisation
from afdet_train.model.heads import Heads
from afdet_train.model.meta import MetaSelection
from afdet_train.model.necks import Neck
from trt_afdet.spec import ModelSpec

STRIDES = (8, 16, 32, 64, 128)


class HeadOutputs(NamedTuple):
    """The outputs of the heads for every point of every level.

    Attributes:
        logits: [N, K, h_l, w_l] of each level.
        distances: [N, 4, h_l, w_l] of each level, >= 0, in units of S * stride.
    """

    logits: list[Tensor]
    distances: list[Tensor]


class AnchorFreeDetector(nn.Module):
    """Images [N, 3, H, W], normalised -> the ten head tensors.

    ``meta`` is used only in training: the loss calls it, ``forward`` does not.
    """

    def __init__(
        self, backbone: nn.Module, neck: Neck, heads: Heads, meta: MetaSelection | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.heads = heads
        self.meta = meta

    def forward(self, images: Tensor) -> HeadOutputs:
        return HeadOutputs(*self.heads(self.neck(self.backbone(images))))


class TrainingNetwork(nn.Module):
    """The detector for training: heads and level logits in one ``forward``.

    DistributedDataParallel only wraps ``forward``, so this is a separate module.
    """

    def __init__(self, detector: AnchorFreeDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, rois: Tensor) -> tuple[HeadOutputs, Tensor | None]:
        """Heads, and the meta-selection net's level logits per box (None without the net)."""
        detector = self.detector
        maps = detector.neck(detector.backbone(images))
        outputs = HeadOutputs(*detector.heads(maps))
        return outputs, None if detector.meta is None else detector.meta(maps, rois)


def build_network(config: ModelConfig, *, load_weights: bool = True) -> AnchorFreeDetector:
    """Builds the network of a recipe's ``model`` section.

    Args:
        config: The section.
        load_weights: Load the backbone's weights; False if a checkpoint follows.
    """
    weights = config.backbone.weights if load_weights else "none"
    backbone, channels = build_backbone(config.backbone.name, weights)
    neck = Neck(
        channels,
        config.neck.name,
        config.neck.width,
        config.neck.repeats,
        weighted=config.neck.is_weighted,
        activation=config.neck.activation,
    )
    heads = Heads(
        config.neck.width,
        config.num_classes,
        depth=config.head.depth,
        norm=config.head.norm,
        reg_activation=config.head.reg_activation,
        levels=len(STRIDES),
    )
    meta = MetaSelection(config.neck.width, STRIDES) if config.uses_meta else None
    detector = AnchorFreeDetector(backbone, neck, heads, meta)
    for name, module in detector.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not name.startswith("backbone."):
            module.momentum = config.bn_momentum
    return detector


def model_spec(config: ModelConfig) -> ModelSpec:
    """The spec of a recipe's model; export stores it and every runtime reads it."""
    mean, std = normalisation(config.backbone.name)
    return ModelSpec(
        name=config.name,
        class_names=config.classes,
        height=config.height,
        width=config.width,
        mean=mean,
        std=std,
        strides=STRIDES,
    )


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
