"""The meta-selection network (paper Table 1): which pyramid levels suit a ground-truth box."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from afdet_train.model.necks import batch_norm

ROI_SIZE = 7


class MetaSelection(nn.Module):
    """RoI features of all levels -> one weight per level. Used only in training.

    Args:
        width: Channels of the neck.
        strides: Pixels per cell of each level.
        channels: Width of the three convolutions.
    """

    def __init__(self, width: int, strides: tuple[int, ...], channels: int = 256) -> None:
        super().__init__()
        self.strides = strides
        layers: list[nn.Module] = []
        inputs = width * len(strides)
        for _ in range(3):  # 7 -> 5 -> 3 -> 1
            layers += [nn.Conv2d(inputs, channels, 3, bias=False), batch_norm(channels), nn.ReLU()]
            inputs = channels
        self.convs = nn.Sequential(*layers)
        self.out = nn.Linear(channels, len(strides))

    def forward(self, maps: list[Tensor], rois: Tensor) -> Tensor:
        """Level logits of every box.

        Args:
            maps: Neck outputs [N, width, h, w] of each level.
            rois: float32 [G, 5], image index and x1 y1 x2 y2 in input pixels of every box.

        Returns:
            float32 [G, levels]; apply softmax for Eq. (5)'s weights.
        """
        aligned = [
            roi_align(
                x,
                rois.to(x.dtype),
                ROI_SIZE,
                spatial_scale=1.0 / stride,
                sampling_ratio=2,
                aligned=True,
            )
            for x, stride in zip(maps, self.strides, strict=True)
        ]
        features = torch.cat(aligned, dim=1)
        if len(features) == 0:
            # The result is empty but depends on the parameters, because every rank of a
            # distributed run needs them in its backward pass.
            tie = sum(p.sum() for p in self.parameters()) * 0.0
            return features.new_zeros((0, len(self.strides)), dtype=torch.float32) + tie
        # A single box gives no useful batch statistics (a 1x1 map would even raise).
        few = self.training and len(features) < 2
        if few:
            self.convs.eval()
        logits = self.out(self.convs(features).flatten(1)).float()
        if few:
            self.convs.train()
        return logits
