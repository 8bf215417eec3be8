"""Targets against numbers worked by hand, and properties that must hold for any boxes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from afdet_train.config import TargetConfig
from afdet_train.samples.boxes import Boxes
from afdet_train.targets import (
    Assignment,
    PointGrid,
    assign,
    centerness,
    find_positives,
    resolve_overlaps,
    select_levels,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)
GRID = PointGrid(256, 384, STRIDES)


def boxes_of(*rows: tuple[float, float, float, float], image: list[int] | None = None) -> Boxes:
    xyxy = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    index = torch.tensor(image if image is not None else [0] * len(xyxy), dtype=torch.long)
    return Boxes(
        xyxy=xyxy,
        labels=torch.zeros(len(xyxy), dtype=torch.long),
        image=index,
        scores=torch.ones(len(xyxy)),
        batch_size=int(index.max()) + 1 if len(index) else 1,
    )


def points_of(grid: PointGrid) -> Tensor:
    rows = []
    for stride, r, c in zip(grid.strides, grid.rows, grid.columns, strict=True):
        for i in range(r):
            rows += [(stride * (j + 0.5), stride * (i + 0.5)) for j in range(c)]
    return torch.tensor(rows)


def test_grid_counts_and_offsets() -> None:
    assert GRID.rows == (32, 16, 8, 4, 2)
    assert GRID.columns == (48, 24, 12, 6, 3)
    assert GRID.offsets == (0, 1536, 1920, 2016, 2040, 2046)
    assert len(points_of(GRID)) == GRID.num_points


def test_distances_by_hand() -> None:
    """Eq. (3): box 100..140 x 60..120, level 4, cell (5, 7), point (120, 88), S * 2^4 = 64."""
    found = find_positives(boxes_of((100, 60, 140, 120)), GRID, TargetConfig())
    at = found.select((found.level == 1) & (found.point == GRID.offsets[1] + 5 * 24 + 7))
    assert at.distances.tolist() == [[20 / 64, 28 / 64, 20 / 64, 32 / 64]]


def test_positives_are_the_cells_of_the_effective_box() -> None:
    """Effective box 112..128 x 82..98 (a fifth of 80 x 80): cells 14..15 x 10..12 of stride 8."""
    found = find_positives(boxes_of((80, 50, 160, 130)), GRID, TargetConfig())
    points = found.point[found.level == 0].tolist()
    assert sorted(points) == sorted(
        48 * row + column for row in (10, 11, 12) for column in (14, 15)
    )


def test_strict_keeps_points_inside_the_effective_box_only() -> None:
    config = TargetConfig(positives="strict")
    found = find_positives(boxes_of((80, 50, 160, 130)), GRID, config)
    points = points_of(GRID)[found.point]
    assert len(found)
    assert bool(
        ((points > torch.tensor([112.0, 82.0])) & (points < torch.tensor([128.0, 98.0]))).all()
    )


def test_cover_keeps_cells_whose_point_is_outside_the_box() -> None:
    # A 6 px box in the corner of a stride-8 cell, away from its centre.
    box = boxes_of((8.2, 8.2, 11.0, 11.0))
    assert len(find_positives(box, GRID, TargetConfig())) == 0
    assert len(find_positives(box, GRID, TargetConfig(positives="cover"))) == 5


@pytest.mark.parametrize(
    ("sqrt", "expected"),
    [(True, math.sqrt((1 / 3) * (2 / 4))), (False, (1 / 3) * (2 / 4))],
)
def test_centerness_by_hand(sqrt: bool, expected: float) -> None:
    """Eq. (4)."""
    value = centerness(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), sqrt=sqrt)
    assert value.item() == pytest.approx(expected)


def test_smallest_box_wins() -> None:
    boxes = boxes_of((0, 0, 256, 256), (96, 96, 160, 160))
    found = find_positives(boxes, GRID, TargetConfig())
    kept = resolve_overlaps(found, boxes, GRID)
    contested = set(found.point[found.box == 0].tolist()) & set(
        found.point[found.box == 1].tolist()
    )
    assert contested
    owners = dict(zip(kept.point.tolist(), kept.box.tolist(), strict=True))
    assert all(owners[p] == 1 for p in contested)


def test_equal_boxes_go_to_the_first() -> None:
    boxes = boxes_of((40, 40, 90, 90), (40, 40, 90, 90))
    kept = resolve_overlaps(find_positives(boxes, GRID, TargetConfig()), boxes, GRID)
    assert set(kept.box.tolist()) == {0}


def test_level_selection_takes_the_least_mean_loss() -> None:
    boxes = boxes_of((64, 64, 192, 192), (8, 8, 24, 24))
    found = find_positives(boxes, GRID, TargetConfig())
    loss = 10.0 - found.level.float()  # deeper is better
    selected = select_levels(loss, found, len(boxes), len(STRIDES))
    deepest = [int(found.level[found.box == g].max()) for g in range(2)]
    assert selected.tolist() == deepest
    assert deepest[1] < 4  # the small box has no point on the coarsest level


def test_a_box_without_positives_selects_something_and_learns_nothing() -> None:
    boxes = boxes_of((8.2, 8.2, 11.0, 11.0))
    found = find_positives(boxes, GRID, TargetConfig())
    selected = select_levels(torch.zeros(len(found)), found, 1, 5)
    assert selected.tolist() == [0]
    result = assign(found, boxes, GRID, TargetConfig(), selected, None)
    assert len(result.positives) == 0
    assert bool((result.point_weight == 1).all())


@pytest.mark.parametrize("unselected", ["ignore", "negative"])
def test_unselected_levels(unselected: str) -> None:
    boxes = boxes_of((64, 64, 192, 192))
    config = TargetConfig(mode="ofs", unselected=unselected)
    found = find_positives(boxes, GRID, config)
    result = assign(found, boxes, GRID, config, torch.tensor([2]), None)
    assert set(result.positives.level.tolist()) == {2}
    other = found.point[found.level != 2]
    expected = 0.0 if unselected == "ignore" else 1.0
    assert set(result.point_weight[0, other].tolist()) == {expected}
    assert bool((result.weight == 1).all())  # plain ofs: no centre weight


def test_soft_weights_multiply() -> None:
    """Eq. (5): w = w^B * c for the positives of every level."""
    boxes = boxes_of((64, 64, 192, 192))
    config = TargetConfig(mode="ss+sw")
    found = find_positives(boxes, GRID, config)
    level_weight = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]], requires_grad=True)
    result = assign(found, boxes, GRID, config, torch.tensor([2]), level_weight)
    expected = level_weight[0, result.positives.level] * centerness(result.positives.distances)
    assert torch.equal(result.weight, expected.detach())
    assert not result.weight.requires_grad


coordinate = st.floats(0, 240, width=32)
side = st.floats(8.125, 200, width=32)


@st.composite
def ground_truth(draw: st.DrawFn) -> Boxes:
    rows, image = [], []
    for _ in range(draw(st.integers(1, 12))):
        x, y = draw(coordinate), draw(coordinate)
        rows.append((x, y, min(x + draw(side), 384.0), min(y + draw(side), 256.0)))
        image.append(draw(st.integers(0, 2)))
    return boxes_of(*rows, image=image)


@settings(max_examples=150, deadline=None)
@given(ground_truth())
def test_every_box_over_eight_pixels_has_a_positive(boxes: Boxes) -> None:
    sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    big = torch.nonzero((sides > 8.005).all(dim=1)).flatten().tolist()
    found = find_positives(boxes, GRID, TargetConfig())
    assert set(big) <= set(found.box.tolist())


@settings(max_examples=150, deadline=None)
@given(ground_truth(), st.sampled_from(["ofs", "ofs+sw", "ss", "ss+sw"]))
def test_assignment_properties(boxes: Boxes, mode: str) -> None:
    config = TargetConfig(mode=mode)
    found = find_positives(boxes, GRID, config)
    generator = torch.Generator().manual_seed(0)
    selected = select_levels(
        torch.rand(len(found), generator=generator), found, len(boxes), len(STRIDES)
    )
    weights = torch.rand(len(boxes), 5, generator=generator).softmax(dim=1)
    result = assign(found, boxes, GRID, config, selected, weights if "ss" in mode else None)
    pos = result.positives
    # Points lie strictly inside their box, at the distances stated.
    points = points_of(GRID)[pos.point]
    stride = torch.tensor(STRIDES)[pos.level][:, None] * 4.0
    edges = boxes.xyxy[pos.box]
    expected = torch.cat([points - edges[:, :2], edges[:, 2:] - points], dim=1) / stride
    assert torch.allclose(pos.distances, expected, atol=1e-5)
    assert bool((pos.distances > 0).all())
    # One owner per point, weights within bounds.
    slots = (boxes.image[pos.box] * GRID.num_points + pos.point).tolist()
    assert len(slots) == len(set(slots))
    assert bool(((result.weight >= 0) & (result.weight <= 1)).all())
    assert bool(((result.point_weight >= 0) & (result.point_weight <= 1)).all())
    # The owner is the smallest of all that compete for the point.
    area = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).prod(dim=1)
    rivals = found if "ss" in mode else found.select(found.level == selected[found.box])
    rival_slots = boxes.image[rivals.box] * GRID.num_points + rivals.point
    smallest: dict[int, float] = {}
    for slot, box in zip(rival_slots.tolist(), rivals.box.tolist(), strict=True):
        smallest[slot] = min(smallest.get(slot, math.inf), float(area[box]))
    for slot, box in zip(slots, pos.box.tolist(), strict=True):
        assert float(area[box]) == smallest[slot]
    assert set(slots) == set(smallest)


def test_scores_of_labels_weigh_their_boxes() -> None:
    boxes = boxes_of((20, 20, 120, 120), (200, 60, 330, 200))
    scored = dataclasses.replace(boxes, scores=torch.tensor([1.0, 0.4]))

    def weights(boxes: Boxes, *, on: bool) -> Assignment:
        config = TargetConfig(label_scores=on)
        found = find_positives(boxes, GRID, config)
        level_weight = torch.full((2, 5), 0.2)
        return assign(found, boxes, GRID, config, torch.zeros(2).long(), level_weight)

    plain, weighed, off = (
        weights(b, on=on) for b, on in ((boxes, True), (scored, True), (scored, False))
    )
    expected = plain.weight * torch.where(plain.positives.box == 1, 0.4, 1.0)
    torch.testing.assert_close(weighed.weight, expected)
    torch.testing.assert_close(off.weight, plain.weight)
    at = weighed.point_weight[0, weighed.positives.point]
    torch.testing.assert_close(at, expected)
