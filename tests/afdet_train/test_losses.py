"""Losses against numbers worked by hand and torchvision's own."""

from __future__ import annotations

import math

import pytest
import torch
from afdet_train.config import LossConfig, TargetConfig
from afdet_train.losses import DetectionLoss, focal_negative, focal_positive, iou_loss
from afdet_train.model import HeadOutputs
from afdet_train.samples.boxes import Boxes
from afdet_train.targets import PointGrid
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

GRID = PointGrid(128, 128, (8, 16, 32, 64, 128))


def heads(classes: int = 3, batch: int = 2, *, seed: int = 0) -> HeadOutputs:
    g = torch.Generator().manual_seed(seed)
    sizes = list(zip(GRID.rows, GRID.columns, strict=True))
    return HeadOutputs(
        [torch.randn(batch, classes, r, c, generator=g).requires_grad_() for r, c in sizes],
        [(torch.rand(batch, 4, r, c, generator=g) + 0.1).requires_grad_() for r, c in sizes],
    )


def truth() -> Boxes:
    return Boxes.collate(
        [
            Boxes.of_image(
                torch.tensor([[10.0, 20, 60, 90], [64, 64, 120, 126]]), torch.tensor([0, 2])
            ),
            Boxes.of_image(torch.tensor([[30.0, 30, 47, 49]]), torch.tensor([1])),
        ]
    )


def test_focal_by_hand() -> None:
    """p = 1/2: alpha (1/2)^2 ln 2, and (1 - alpha) (1/2)^2 ln 2."""
    zero = torch.zeros(1)
    assert focal_positive(zero, 0.25, 2.0).item() == pytest.approx(0.0625 * math.log(2))
    assert focal_negative(zero, 0.25, 2.0).item() == pytest.approx(0.1875 * math.log(2))


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_is_torchvisions(target: float) -> None:
    logits = torch.linspace(-20, 20, 81, dtype=torch.float64)
    ours = (focal_positive if target else focal_negative)(logits, 0.25, 2.0)
    assert torch.allclose(ours, sigmoid_focal_loss(logits, torch.full_like(logits, target)))


def test_iou_loss_by_hand() -> None:
    """2 x 2 and 3 x 3 boxes around one point: intersection 4, union 9."""
    a, b = torch.full((1, 4), 1.0), torch.full((1, 4), 1.5)
    assert iou_loss(a, b).item() == pytest.approx(math.log(9 / 4), rel=1e-5)
    assert iou_loss(a, a).item() == pytest.approx(0.0, abs=1e-6)


def test_iou_loss_of_nothing_is_finite_and_has_a_gradient() -> None:
    predicted = torch.zeros(1, 4, requires_grad=True)
    loss = iou_loss(predicted, torch.ones(1, 4)).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert predicted.grad is not None
    assert bool(torch.isfinite(predicted.grad).all())


@pytest.mark.parametrize("mode", ["ofs", "ofs+sw", "ss", "ss+sw"])
def test_total_is_the_plain_formula(mode: str) -> None:
    """Eq. (6) and (7), written out densely over points, against the vectorised loss."""
    outputs, boxes = heads(), truth()
    config = TargetConfig(mode=mode)
    level_logits = torch.tensor([[0.0, 1, 2, 0, 0], [1.0, 0, 0, 0, 1], [3.0, 0, 0, 0, 0]])
    level_logits.requires_grad_()
    soft = mode.startswith("ss")
    parts = DetectionLoss(GRID, config, LossConfig())(
        outputs, level_logits if soft else None, boxes
    )

    from afdet_train.losses import flatten_heads
    from afdet_train.targets import assign, find_positives, select_levels

    logits, distances = flatten_heads(outputs.logits), flatten_heads(outputs.distances)
    found = find_positives(boxes, GRID, config)
    pair = []
    for box, point, d in zip(
        found.box.tolist(), found.point.tolist(), found.distances, strict=True
    ):
        image = int(boxes.image[box])
        onehot = torch.zeros(3)
        onehot[boxes.labels[box]] = 1
        focal = sigmoid_focal_loss(logits[image, point], onehot, reduction="sum")
        pair.append((focal + iou_loss(distances[image, point][None], d[None])[0]).item())
    selected = select_levels(torch.tensor(pair), found, len(boxes), 5)
    result = assign(found, boxes, GRID, config, selected, level_logits.softmax(1) if soft else None)
    target = torch.zeros_like(logits)
    pos = result.positives
    for box, point in zip(pos.box.tolist(), pos.point.tolist(), strict=True):
        target[int(boxes.image[box]), point, boxes.labels[box]] = 1
    cls = (sigmoid_focal_loss(logits, target) * result.point_weight[..., None]).sum()
    image = boxes.image[pos.box]
    box_loss = (iou_loss(distances[image, pos.point], pos.distances) * result.weight).sum()
    norm = max(1.0, float(result.weight.sum()))
    expected = (cls + box_loss) / norm
    if soft:
        expected = expected + 0.1 * torch.nn.functional.cross_entropy(level_logits, selected)
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts.levels.tolist() == torch.bincount(selected, minlength=5).tolist()


def test_level_weights_are_detached_and_the_cross_entropy_is_not() -> None:
    outputs, boxes = heads(), truth()
    level_logits = torch.zeros(3, 5, requires_grad=True)
    loss = DetectionLoss(GRID, TargetConfig(), LossConfig(meta_weight=0.0))
    loss(outputs, level_logits, boxes).total.backward()
    assert level_logits.grad is None or bool((level_logits.grad == 0).all())
    loss = DetectionLoss(GRID, TargetConfig(), LossConfig())
    loss(outputs, level_logits, boxes).total.backward()
    assert level_logits.grad is not None
    assert bool((level_logits.grad != 0).any())


def test_pictures_without_boxes_still_train_the_background() -> None:
    outputs = heads(batch=1)
    empty = Boxes.of_image(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    parts = DetectionLoss(GRID, TargetConfig(), LossConfig())(outputs, torch.zeros(0, 5), empty)
    parts.total.backward()
    assert parts.positives == 0
    assert parts.total.item() > 0
    assert outputs.logits[0].grad is not None


def gradients(outputs: HeadOutputs, ignored: Boxes | None, targets: TargetConfig) -> list[Tensor]:
    loss = DetectionLoss(GRID, targets, LossConfig())
    total = loss(outputs, None, truth(), ignored).total
    return list(torch.autograd.grad(total, outputs.logits))


def test_a_region_to_ignore_has_no_loss_of_its_class() -> None:
    """Neither background nor target there; other classes and places learn as before."""
    outputs = heads()
    region = torch.tensor([[8.0, 8, 72, 72]])
    ignored = Boxes.collate(
        [
            Boxes.of_image(region, torch.tensor([1])),
            Boxes.of_image(torch.empty(0, 4), torch.empty(0)),
        ]
    )
    config = TargetConfig(mode="ofs")
    before, after = gradients(outputs, None, config), gradients(outputs, ignored, config)
    for stride, was, now in zip(GRID.strides, before, after, strict=True):
        x, y = ((torch.arange(n) + 0.5) * stride for n in was.shape[:1:-1])
        inside = ((y > 8) & (y < 72))[:, None] & ((x > 8) & (x < 72))[None]
        assert not now[0, 1][inside].any()
        torch.testing.assert_close(now[0, 1][~inside], was[0, 1][~inside])
        torch.testing.assert_close(now[0, [0, 2]], was[0, [0, 2]])
        torch.testing.assert_close(now[1], was[1])
    assert before[0][0, 1].any()


def test_a_box_in_a_region_of_its_class_still_learns() -> None:
    outputs = heads()
    everywhere = torch.tensor([[0.0, 0, 128, 128]])
    ignored = Boxes.collate([Boxes.of_image(everywhere, torch.tensor([c])) for c in (0, 1)])
    config = TargetConfig(mode="ofs", unselected="negative")
    before, after = gradients(outputs, None, config), gradients(outputs, ignored, config)
    taught = [now[0, 0] != 0 for now in after]
    assert sum(int(t.sum()) for t in taught) > 0
    for mask, was, now in zip(taught, before, after, strict=True):
        # Positive points: the same gradient up to the order of the sum.
        assert torch.allclose(now[0, 0][mask], was[0, 0][mask])
        assert (was[0, 0][mask] < 0).all()


@pytest.mark.parametrize("off", [True, False])
def test_without_regions_or_with_the_value_off_nothing_changes(off: bool) -> None:
    outputs = heads()
    region = Boxes.of_image(torch.tensor([[8.0, 8, 72, 72]]), torch.tensor([1]))
    none = Boxes.of_image(torch.empty(0, 4), torch.empty(0))
    ignored = Boxes.collate([region if off else none, none])
    config = TargetConfig(mode="ofs", ignore_regions=not off)
    for was, now in zip(
        gradients(outputs, None, config), gradients(outputs, ignored, config), strict=True
    ):
        assert torch.equal(was, now)
