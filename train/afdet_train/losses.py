"""Losses (paper Eq. 6 and 7), on logits, in FP32, normalised over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from afdet_train.config import LossConfig, TargetConfig
from afdet_train.model import HeadOutputs
from afdet_train.samples.boxes import Boxes
from afdet_train.targets import (
    PointGrid,
    Positives,
    assign,
    find_ignored,
    find_positives,
    select_levels,
)

_IOU_EPS = 1e-7


def focal_negative(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of each logit towards 0: (1 - alpha) p^gamma (-ln(1 - p))."""
    return (1 - alpha) * torch.sigmoid(logits).pow(gamma) * F.softplus(logits)


def focal_positive(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of each logit towards 1: alpha (1 - p)^gamma (-ln p)."""
    return alpha * torch.sigmoid(-logits).pow(gamma) * F.softplus(-logits)


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """-ln IoU of two boxes around the same point (UnitBox).

    Args:
        predicted, target: [M, 4] distances l t r b, in the same units.

    Returns:
        [M], -ln((I + 1e-7) / (U + 1e-7)).
    """
    low = torch.minimum(predicted, target)
    inter = (low[:, 0] + low[:, 2]).clamp(min=0) * (low[:, 1] + low[:, 3]).clamp(min=0)
    area_p = (predicted[:, 0] + predicted[:, 2]) * (predicted[:, 1] + predicted[:, 3])
    area_t = (target[:, 0] + target[:, 2]) * (target[:, 1] + target[:, 3])
    union = area_p + area_t - inter
    return -torch.log((inter + _IOU_EPS) / (union + _IOU_EPS))


def flatten_heads(maps: list[Tensor]) -> Tensor:
    """[N, C, h_l, w_l] of each level -> float32 [N, P, C], finest level first."""
    return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2).float()


@dataclass(frozen=True)
class LossParts:
    """The losses of one step.

    Attributes:
        total: Scalar to differentiate.
        cls, box, meta: Its parts, weighted and detached.
        positives: Number of positive points on this rank.
        dead: Share of positives with a box output of exactly zero on some side (dying ReLU).
        levels: int64 [L], number of boxes that chose each level, for the log.
    """

    total: Tensor
    cls: Tensor
    box: Tensor
    meta: Tensor
    positives: int
    dead: Tensor
    levels: Tensor

    #: Names of the values of :meth:`figures`.
    names: ClassVar[tuple[str, ...]] = ("loss", "cls", "box", "meta", "dead")

    def figures(self) -> Tensor:
        """The figures to log as one tensor, so that one copy fetches them from the device.

        Each rank divides its sum by its share of the common normaliser, so the mean over the ranks
        is the loss of the whole batch.
        """
        return torch.stack([self.total.detach(), self.cls, self.box, self.meta, self.dead])


def _sum_over_ranks(value: Tensor) -> tuple[Tensor, int]:
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        return value, dist.get_world_size()
    return value, 1


class DetectionLoss:
    """Targets and losses of one batch.

    Args:
        grid: The points.
        targets, losses: The recipe's sections.
    """

    def __init__(self, grid: PointGrid, targets: TargetConfig, losses: LossConfig) -> None:
        self.grid = grid
        self.targets = targets
        self.losses = losses

    @torch.no_grad()
    def select_levels_by_loss(
        self, logits: Tensor, distances: Tensor, boxes: Boxes, positives: Positives
    ) -> Tensor:
        """OFS: focal loss over all classes plus IoU loss of every pair, without centre weights."""
        alpha, gamma = self.losses.focal_alpha, self.losses.focal_gamma
        image = boxes.image[positives.box]
        label = boxes.labels[positives.box]
        at = logits[image, positives.point]  # [M, K]
        own = at.gather(1, label[:, None])[:, 0]
        focal = focal_negative(at, alpha, gamma).sum(dim=1)
        focal += focal_positive(own, alpha, gamma) - focal_negative(own, alpha, gamma)
        pair = focal + iou_loss(distances[image, positives.point], positives.distances)
        return select_levels(pair, positives, len(boxes), len(self.grid.strides))

    def __call__(
        self,
        outputs: HeadOutputs,
        level_logits: Tensor | None,
        boxes: Boxes,
        ignored: Boxes | None = None,
        *,
        soft: bool = True,
    ) -> LossParts:
        """Losses of a batch.

        Args:
            outputs: The heads.
            level_logits: [G, L] of the meta-selection net, or None without it.
            boxes: Ground truth.
            ignored: Regions whose points have no class loss for the region's class, unless a box
                of that class owns the point.
            soft: False: one-hot selection, also if the mode is soft (for the first epochs).
        """
        alpha, gamma = self.losses.focal_alpha, self.losses.focal_gamma
        logits = flatten_heads(outputs.logits)
        distances = flatten_heads(outputs.distances)
        found = find_positives(boxes, self.grid, self.targets)
        selected = self.select_levels_by_loss(logits, distances, boxes, found)
        level_weight = None
        if self.targets.soft_selection and soft and level_logits is not None:
            # Detached: otherwise the weight moves to the level with most points.
            level_weight = level_logits.detach().softmax(dim=1)
        assignment = assign(found, boxes, self.grid, self.targets, selected, level_weight)
        pos = assignment.positives

        image = boxes.image[pos.box]
        own = logits[image, pos.point, boxes.labels[pos.box]]
        negative = focal_negative(logits, alpha, gamma)
        if ignored is not None and len(ignored) and self.targets.ignore_regions:
            left_out = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
            left_out[find_ignored(ignored, self.grid)] = True
            left_out[image, pos.point, boxes.labels[pos.box]] = False
            negative = negative.masked_fill(left_out, 0.0)
        weighted = negative.sum(dim=2) * assignment.point_weight
        cls_sum = weighted.sum()
        correction = focal_positive(own, alpha, gamma) - focal_negative(own, alpha, gamma)
        cls_sum = cls_sum + (correction * assignment.weight).sum()

        predicted = distances[image, pos.point]
        box_sum = (iou_loss(predicted, pos.distances) * assignment.weight).sum()

        norm, world = _sum_over_ranks(assignment.weight.sum())
        norm = norm.clamp(min=1.0) / world
        cls_loss = cls_sum / norm
        box_loss = self.losses.box_weight * box_sum / norm

        meta_loss = logits.new_zeros(())
        if level_logits is not None:
            has_positive = torch.zeros(len(boxes), dtype=torch.bool, device=logits.device)
            has_positive[found.box] = True
            count, world = _sum_over_ranks(has_positive.sum().float())
            entropy = F.cross_entropy(level_logits, selected, reduction="none")
            # A rank without boxes multiplies by zero, so the net's parameters stay in the backward.
            meta_sum = (entropy * has_positive).sum()
            meta_loss = self.losses.meta_weight * meta_sum / (count.clamp(min=1.0) / world)

        with torch.no_grad():
            dead = (predicted <= 0).any(dim=1).float().sum() / max(1, len(pos))
        return LossParts(
            total=cls_loss + box_loss + meta_loss,
            cls=cls_loss.detach(),
            box=box_loss.detach(),
            meta=meta_loss.detach(),
            positives=len(pos),
            dead=dead,
            levels=torch.bincount(selected, minlength=len(self.grid.strides)),
        )
