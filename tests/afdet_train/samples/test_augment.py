"""Augmentation: boxes stay on their objects, and the rules about what stays hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from afdet_train.config import AugmentConfig, parse_recipe
from afdet_train.model.network import model_spec
from afdet_train.samples.augment import RandomWindow
from afdet_train.samples.stream import Sample, TrainingPictures
from torchvision import tv_tensors

from trt_afdet.datasets import Dataset, Record
from trt_afdet.spec import ModelSpec

Values = dict[str, Any]
#: Of the pictures made here.
HEIGHT, WIDTH = 90, 200
#: Grey everywhere, one plain colour per object: the pixels say where an object is.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def data_of(folder: Path, boxes: list[tuple[int, int, int, int]], **flags: list[bool]) -> Dataset:
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for (x1, y1, x2, y2), colour in zip(boxes, COLOURS, strict=False):
        frame[y1:y2, x1:x2] = colour
    path = folder / "picture.png"
    assert cv2.imwrite(str(path), frame)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    record = Record.build(path, 1, WIDTH, HEIGHT, array, range(len(boxes)), **flags)
    return Dataset("made", ("b", "g", "r"), (record,), (1, 2, 3))


def pictures(
    values: Values, data: Dataset, *, min_side: float = 0.0, **augment: object
) -> TrainingPictures:
    values = copy.deepcopy(values)
    values["model"].update(classes=list(data.class_names), width=256)
    values["augment"] = {"color_p": 0.0, **augment}
    values["data"]["min_side"] = min_side
    recipe = parse_recipe(values, "test")
    return TrainingPictures(data, recipe, model_spec(recipe.model))


def seen(sample: Sample, label: int) -> np.ndarray:
    """Mask of an object's pixels: its channel is far above the other two."""
    image = sample.image.numpy().astype(int)[..., ::-1]  # RGB -> BGR
    others = np.delete(image, label, axis=2).max(axis=2)
    return np.asarray(image[..., label] - others > 127)


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


THREE = [(20, 10, 60, 70), (90, 30, 150, 60), (165, 5, 195, 85)]


def test_without_augmentation_a_sample_is_the_letterboxed_picture(
    tiny_recipe: Values, tmp_path: Path
) -> None:
    still = pictures(tiny_recipe, data_of(tmp_path, THREE), flip=0, scale_p=0, translate=0)
    sample = still[0]
    assert sample.image.dtype == torch.uint8
    assert sample.image.shape == (128, 256, 3)
    # 200 x 90 into 256 x 128: by 1.28 to 256 x 115, 6 above.
    ratio = np.array([256 / 200, 115 / 90] * 2)
    np.testing.assert_allclose(sample.boxes.xyxy, np.array(THREE) * ratio + [0, 6, 0, 6], atol=1e-3)
    assert sample.boxes.labels.tolist() == [0, 1, 2]
    assert (sample.image[:6] == 128).all()
    assert sample.name.endswith("picture.png")


def test_boxes_stay_on_their_objects(tiny_recipe: Values, tmp_path: Path) -> None:
    moving = pictures(
        tiny_recipe, data_of(tmp_path, THREE),
        flip=0.5, scale_p=1.0, scale=(0.5, 2.0), translate=0.3, box_safe=0.3, min_visible=0.0,
    )  # fmt: skip
    flipped, compared = set(), 0
    for position in range(150):
        sample = moving[position]
        assert sample.boxes.xyxy.dtype == torch.float32
        assert sample.boxes.labels.dtype == torch.int64
        centres = {}
        for box, label in zip(sample.boxes.xyxy.numpy(), sample.boxes.labels.tolist(), strict=True):
            assert (box >= 0).all()
            assert (box <= [256, 128, 256, 128]).all()
            centres[label] = (box[0] + box[2]) / 2
            if (box[2:] - box[:2]).min() < 4:
                continue
            np.testing.assert_allclose(extent(seen(sample, label)), box, atol=1.6)
            compared += 1
        if {0, 2} <= set(centres):
            flipped.add(bool(centres[0] > centres[2]))
        # An object without a box is out of view but for a sliver.
        for label in {0, 1, 2} - set(sample.boxes.labels.tolist()):
            assert seen(sample, label).sum() == 0
    assert flipped == {True, False}
    assert compared > 150


def test_safe_windows_keep_every_box_whole(tiny_recipe: Values, tmp_path: Path) -> None:
    boxes = [(60, 30, 90, 50), (100, 35, 140, 60)]
    safe = pictures(
        tiny_recipe, data_of(tmp_path, boxes),
        flip=0.5, scale_p=1.0, scale=(0.6, 3.0), translate=0.5, box_safe=1.0, min_visible=1.0,
    )  # fmt: skip
    for position in range(100):
        # min_visible 1: a box that lost a pixel would be gone.
        assert safe[position].boxes.labels.tolist() == [0, 1]


def test_safe_windows_keep_boxes_between_pixels() -> None:
    config = AugmentConfig(scale=(0.5, 4.0), scale_p=1.0, translate=0.5, box_safe=1.0)
    window = RandomWindow(config, 128)
    torch.manual_seed(0)
    for _ in range(300):
        corner = torch.rand(3, 2) * torch.tensor([150.0, 60.0])
        boxes = torch.cat([corner, corner + 1 + torch.rand(3, 2) * 29], dim=1)
        canvas = tv_tensors.BoundingBoxes(  # type: ignore[call-arg]
            boxes, format="XYXY", canvas_size=(HEIGHT, WIDTH), clamping_mode=None
        )
        moved = window(canvas)
        height, width = moved.canvas_size
        plain = moved.as_subclass(torch.Tensor)
        assert plain.min() >= 0
        assert plain[:, [0, 2]].max() <= width
        assert plain[:, [1, 3]].max() <= height
        sizes = plain[:, 2:] - plain[:, :2]
        assert torch.allclose(sizes, boxes[:, 2:] - boxes[:, :2], atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_box_out_of_view_by_too_much_loses_its_label(
    tiny_recipe: Values, tmp_path: Path, share: float
) -> None:
    values = {"flip": 0.0, "scale_p": 0.0, "translate": 0.6, "box_safe": 0.0}
    data = data_of(tmp_path, [(100, 20, 190, 80)])
    strict = pictures(tiny_recipe, data, **values, min_visible=share)
    lax = pictures(tiny_recipe, data, **values, min_visible=0.0)
    whole = 90 * 60 * 1.28 * 115 / 90
    kept = dropped = 0
    for position in range(80):
        visible = seen(lax[position], 0).sum() / whole
        count = len(strict[position].boxes)
        if visible > share + 0.03:
            assert count == 1
            kept += 1
        elif visible < share - 0.03:
            assert count == 0
            dropped += 1
    assert kept > 5
    assert dropped > 5


def test_a_box_too_small_in_the_input_is_no_target(tiny_recipe: Values, tmp_path: Path) -> None:
    data = data_of(tmp_path, [(20, 10, 60, 70), (90, 30, 150, 36)])  # 6 rows: 7.7 in the input
    still = {"flip": 0, "scale_p": 0, "translate": 0}
    assert pictures(tiny_recipe, data, **still, min_side=7.5)[0].boxes.labels.tolist() == [0, 1]
    assert pictures(tiny_recipe, data, **still, min_side=8.0)[0].boxes.labels.tolist() == [0]


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_ignored_objects_move_with_the_picture(
    tiny_recipe: Values, tmp_path: Path, flag: str
) -> None:
    """Their pixels say where they are, in whatever window the augmentation chose."""
    flags = {flag: [False, True, False]}
    moved = pictures(tiny_recipe, data_of(tmp_path, THREE, **flags), flip=0.5, scale=[0.6, 1.6])
    met = 0
    for position in range(40):
        sample = moved[position]
        mask = seen(sample, 1)
        assert 1 not in sample.boxes.labels
        if not len(sample.ignored):
            assert not mask.any()
            continue
        met += 1
        assert sample.ignored.labels.tolist() == [1]
        np.testing.assert_allclose(sample.ignored.xyxy[0], extent(mask), atol=1.5)
    assert met > 20


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_ignored_objects_are_no_targets(tiny_recipe: Values, tmp_path: Path, flag: str) -> None:
    data = data_of(tmp_path, THREE, **{flag: [False, True, False]})
    sample = pictures(tiny_recipe, data, flip=0, scale_p=0, translate=0)[0]
    assert sample.boxes.labels.tolist() == [0, 2]


def test_a_picture_without_objects_is_a_sample(tiny_recipe: Values, tmp_path: Path) -> None:
    sample = pictures(tiny_recipe, data_of(tmp_path, []), scale_p=1.0)[0]
    assert sample.boxes.xyxy.shape == (0, 4)
    assert sample.boxes.labels.shape == (0,)
    assert sample.image.shape == (128, 256, 3)


def test_colour_changes_pixels_and_leaves_boxes(tiny_recipe: Values, tmp_path: Path) -> None:
    data = data_of(tmp_path, THREE)
    still = {"flip": 0, "scale_p": 0, "translate": 0}
    plain = pictures(tiny_recipe, data, **still)[0]
    coloured = pictures(tiny_recipe, data, **still, color_p=1.0)[0]
    assert not torch.equal(plain.image, coloured.image)
    assert torch.equal(plain.boxes.xyxy, coloured.boxes.xyxy)


def test_channels_are_in_the_specs_order(tiny_recipe: Values, tmp_path: Path) -> None:
    still = pictures(tiny_recipe, data_of(tmp_path, THREE), flip=0, scale_p=0, translate=0)
    rgb = still[0].image
    assert isinstance(still.spec, ModelSpec)
    still.spec = still.spec.replace(color_order="BGR")
    assert torch.equal(still[0].image, rgb.flip(-1))
