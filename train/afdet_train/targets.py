"""Targets: which points learn which box (paper Eq. 3), on which levels, with which weight.

Positives are enumerated from the boxes as one flat list. The cost grows with the number of
positives, not with points x boxes, and no Python loop runs over boxes or images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from afdet_train.config import TargetConfig
from afdet_train.samples.boxes import Boxes


@dataclass(frozen=True)
class PointGrid:
    """The anchor points of all levels, concatenated finest level first.

    Point (row i, column j) of level l is at (2^l (j + 1/2), 2^l (i + 1/2)) in input pixels.
    """

    height: int
    width: int
    strides: tuple[int, ...]
    scale: float = 4.0

    @cached_property
    def rows(self) -> tuple[int, ...]:
        return tuple(self.height // s for s in self.strides)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        return tuple(self.width // s for s in self.strides)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of each level's first point; the last entry is the number of points."""
        offsets = [0]
        for r, c in zip(self.rows, self.columns, strict=True):
            offsets.append(offsets[-1] + r * c)
        return tuple(offsets)

    @property
    def num_points(self) -> int:
        return self.offsets[-1]


@dataclass(frozen=True)
class Positives:
    """M pairs (box, point).

    Attributes:
        box: int64 [M], index into :class:`~afdet_train.samples.boxes.Boxes`.
        level: int64 [M], index of the level; 0 is the finest.
        point: int64 [M], index into the concatenated points of one image.
        distances: float32 [M, 4], l t r b in units of S * stride (Eq. 3).
    """

    box: Tensor
    level: Tensor
    point: Tensor
    distances: Tensor

    def __len__(self) -> int:
        return len(self.box)

    def select(self, keep: Tensor) -> Positives:
        return Positives(self.box[keep], self.level[keep], self.point[keep], self.distances[keep])


def find_positives(boxes: Boxes, grid: PointGrid, config: TargetConfig) -> Positives:
    """All points that may learn each box, on every level, before overlaps are resolved.

    The effective box is the box shrunk about its centre by ``effective_ratio``. A box without
    positives on a level gets no pair there.
    """
    device = boxes.xyxy.device
    strides = torch.tensor(grid.strides, dtype=torch.float32, device=device)
    columns = torch.tensor(grid.columns, device=device)
    rows = torch.tensor(grid.rows, device=device)
    centre = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2
    half = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]) / 2 * config.effective_ratio
    low, high = centre - half, centre + half  # [G, 2]

    # Cells that the effective box covers, [G, L, 2] for (x, y); at least one.
    limit = torch.stack([columns, rows], dim=1)  # [L, 2]
    first = torch.floor(low[:, None] / strides[:, None]).long().clamp_(min=0)
    last = torch.ceil(high[:, None] / strides[:, None]).long()
    last = torch.minimum(torch.maximum(last, first + 1), limit)
    size = (last - first).clamp_(min=0)
    counts = size[..., 0] * size[..., 1]  # [G, L]

    # One entry per (box, level, cell): the k-th cell of its rectangle, row by row.
    pairs = torch.repeat_interleave(torch.arange(counts.numel(), device=device), counts.reshape(-1))
    starts = torch.cumsum(counts.reshape(-1), 0) - counts.reshape(-1)
    k = torch.arange(len(pairs), device=device) - starts[pairs]
    box, level = pairs // len(grid.strides), pairs % len(grid.strides)
    width = size.reshape(-1, 2)[pairs, 0]
    origin = first.reshape(-1, 2)[pairs]
    column, row = origin[:, 0] + k % width, origin[:, 1] + k // width

    stride = strides[level]
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    edges = boxes.xyxy[box]
    distances = torch.stack(
        [x - edges[:, 0], y - edges[:, 1], edges[:, 2] - x, edges[:, 3] - y], dim=1
    )
    offsets = torch.tensor(grid.offsets[:-1], device=device)
    found = Positives(
        box=box,
        level=level,
        point=offsets[level] + row * columns[level] + column,
        distances=distances / (grid.scale * stride[:, None]),
    )
    if config.positives == "cover":
        return found
    if config.positives == "strict":
        inside = (x > low[box, 0]) & (x < high[box, 0]) & (y > low[box, 1]) & (y < high[box, 1])
        # Except for rounding, a point of the effective box is also inside the box.
        return found.select(inside & (distances > 0).all(dim=1))
    return found.select((distances > 0).all(dim=1))


def find_ignored(ignored: Boxes, grid: PointGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Points inside regions to ignore, on all levels.

    Returns:
        Image, point and class of each, int64 [Q] each; regions that overlap repeat points.
    """
    inside = find_positives(ignored, grid, TargetConfig(effective_ratio=1.0))
    return ignored.image[inside.box], inside.point, ignored.labels[inside.box]


def resolve_overlaps(positives: Positives, boxes: Boxes, grid: PointGrid) -> Positives:
    """Assigns a point of several boxes to the smallest box, or the first of equal area."""
    size = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    area = size[:, 0] * size[:, 1]
    rank = torch.empty(len(boxes), dtype=torch.long, device=area.device)
    rank[torch.argsort(area, stable=True)] = torch.arange(len(boxes), device=area.device)
    place = boxes.image[positives.box] * grid.num_points + positives.point
    best = torch.full((boxes.batch_size * grid.num_points,), len(boxes), device=area.device)
    best.scatter_reduce_(0, place, rank[positives.box], "amin")
    return positives.select(rank[positives.box] == best[place])


def centerness(distances: Tensor, *, sqrt: bool = True) -> Tensor:
    """Eq. (4): how close a point is to the centre of its box. [M, 4] -> [M], within 0..1.

    Distances below zero (possible only with ``positives="cover"``) give 0.
    """
    d = distances.clamp(min=0)
    horizontal = torch.minimum(d[:, 0], d[:, 2]) / torch.maximum(d[:, 0], d[:, 2]).clamp(min=1e-12)
    vertical = torch.minimum(d[:, 1], d[:, 3]) / torch.maximum(d[:, 1], d[:, 3]).clamp(min=1e-12)
    product = horizontal * vertical
    return product.sqrt() if sqrt else product


def select_levels(pair_loss: Tensor, positives: Positives, num_boxes: int, levels: int) -> Tensor:
    """Online feature selection: the level with the least mean loss over the box's positives.

    Args:
        pair_loss: float32 [M], loss of each pair, without gradient.
        positives: The pairs, before overlaps are resolved.
        num_boxes, levels: Sizes.

    Returns:
        int64 [G]: level of each box. The loss of a level without positives is infinite; a box
        without positives gets level 0.
    """
    group = positives.box * levels + positives.level
    total = pair_loss.new_zeros(num_boxes * levels).index_add_(0, group, pair_loss)
    count = pair_loss.new_zeros(num_boxes * levels).index_add_(0, group, torch.ones_like(pair_loss))
    mean = torch.where(count > 0, total / count.clamp(min=1), float("inf"))
    return mean.view(num_boxes, levels).argmin(dim=1)


@dataclass(frozen=True)
class Assignment:
    """The target of each point.

    Attributes:
        positives: Pairs after level selection and overlap resolution; at most one per point.
        weight: float32 [M]: weight of each pair (Eq. 4 and 5, and the label's score), without
            gradient.
        point_weight: float32 [N, P]: weight of each point's class loss; 1 for negatives, the
            pair's for positives, 0 for ignored points.
    """

    positives: Positives
    weight: Tensor
    point_weight: Tensor


def assign(
    positives: Positives,
    boxes: Boxes,
    grid: PointGrid,
    config: TargetConfig,
    selected: Tensor,
    level_weight: Tensor | None,
) -> Assignment:
    """Applies the level selection and the weights.

    Args:
        positives: All pairs (:func:`find_positives`).
        boxes, grid, config: As everywhere.
        selected: int64 [G]: level of each box by online feature selection.
        level_weight: float32 [G, L]: w^B of Eq. (5), detached; None for one-hot selection.
    """
    shape = (boxes.batch_size * grid.num_points,)
    point_weight = torch.ones(shape, device=boxes.xyxy.device)
    chosen = positives
    if level_weight is None:
        keep = positives.level == selected[positives.box]
        if config.unselected == "ignore":
            left_out = positives.select(~keep)
            point_weight[boxes.image[left_out.box] * grid.num_points + left_out.point] = 0.0
        chosen = positives.select(keep)
    chosen = resolve_overlaps(chosen, boxes, grid)
    weight = torch.ones(len(chosen), device=boxes.xyxy.device)
    if level_weight is not None:
        weight = weight * level_weight.detach()[chosen.box, chosen.level]
    if config.soft_weights:
        weight = weight * centerness(chosen.distances, sqrt=config.centerness_sqrt)
    if config.label_scores:
        weight = weight * boxes.scores[chosen.box]
    point_weight[boxes.image[chosen.box] * grid.num_points + chosen.point] = weight
    return Assignment(chosen, weight, point_weight.view(boxes.batch_size, grid.num_points))
