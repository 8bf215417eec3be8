"""Boxes stay flat from the sample to the loss."""

from __future__ import annotations

import torch
from afdet_train.samples.boxes import Boxes
from torchvision.ops import roi_align


def image_of(count: int, start: float) -> Boxes:
    xyxy = start + torch.arange(4 * count).reshape(count, 4) % 30 * torch.ones(4)
    xyxy[:, 2:] += 40
    return Boxes.of_image(xyxy, torch.arange(count))


def test_a_batch_counts_its_images_with_and_without_boxes() -> None:
    batch = Boxes.collate([image_of(2, 0), image_of(0, 0), image_of(1, 5)])
    assert batch.batch_size == 3
    assert batch.image.tolist() == [0, 0, 2]
    assert batch.labels.tolist() == [0, 1, 0]
    assert batch.xyxy.shape == (3, 4)


def test_batches_join_to_the_batch_of_all() -> None:
    parts = [image_of(1, 0), image_of(0, 0), image_of(2, 1), image_of(3, 2)]
    whole = Boxes.collate(parts)
    joined = Boxes.collate([Boxes.collate(parts[:2]), Boxes.collate(parts[2:])])
    for name in ("xyxy", "labels", "image"):
        assert torch.equal(getattr(whole, name), getattr(joined, name))
    assert whole.batch_size == joined.batch_size == 4


def test_regions_are_what_torchvision_makes_of_a_list() -> None:
    images = [image_of(2, 0), image_of(0, 0), image_of(3, 7)]
    maps = torch.randn(3, 2, 16, 16)
    flat = roi_align(maps, Boxes.collate(images).rois(), 7, spatial_scale=1 / 8)
    listed = roi_align(maps, [b.xyxy for b in images], 7, spatial_scale=1 / 8)
    assert torch.equal(flat, listed)
