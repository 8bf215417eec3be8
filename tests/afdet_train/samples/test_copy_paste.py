"""Copy-Paste: masks decode by COCO's rules, and every box fits what is seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from afdet_train.samples.copy_paste import CopyPaste, decode_mask
from faster_coco_eval.core import mask as rle

from trt_afdet.datasets import Dataset, Record, open_dataset
from trt_afdet.errors import CorruptFileError, InvalidValueError

HEIGHT, WIDTH = 40, 60
SQUARE = [4.0, 6.0, 24.0, 6.0, 24.0, 16.0, 4.0, 16.0]
OTHER = [14.0, 10.0, 40.0, 10.0, 40.0, 30.0, 14.0, 30.0]  # overlaps SQUARE
SLANTED = [30.3, 2.2, 55.7, 20.9, 33.3, 37.5]


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def test_a_polygon_covers_its_pixels_and_no_more() -> None:
    mask = decode_mask([SQUARE], HEIGHT, WIDTH)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, rectangle(4, 6, 24, 16))


def test_polygons_that_overlap_are_joined() -> None:
    expected = rectangle(4, 6, 24, 16) | rectangle(14, 10, 40, 30)
    np.testing.assert_array_equal(decode_mask([SQUARE, OTHER], HEIGHT, WIDTH), expected)


def test_a_slanted_polygon_has_its_area() -> None:
    x, y = np.array(SLANTED[::2]), np.array(SLANTED[1::2])
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert decode_mask([SLANTED], HEIGHT, WIDTH).sum() == pytest.approx(area, rel=0.05)


def test_run_lengths_as_list_and_as_text_agree_with_the_library() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    encoded = rle.encode(np.asfortranarray(mask))
    text = {**encoded, "counts": encoded["counts"].decode()}
    columns = mask.T.ravel()
    edges = np.flatnonzero(np.diff(columns, prepend=0, append=2))
    counts = np.diff(edges, prepend=0).tolist()
    for value in (encoded, text, {"size": [HEIGHT, WIDTH], "counts": counts}):
        np.testing.assert_array_equal(decode_mask(value, HEIGHT, WIDTH), mask)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        [[1, 2, 3]],
        [[1, 2, 3, 4]],
        [["a"] * 6],
        [[float("nan")] * 6],
        [SQUARE, 5],
        {},
        {"size": [HEIGHT, WIDTH]},
        {"counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [5]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": "abc"},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": 5, "counts": [5]},
    ],
)
def test_what_is_no_mask_is_refused(value: Any) -> None:
    with pytest.raises(CorruptFileError, match="60x40") as caught:
        decode_mask(value, HEIGHT, WIDTH)
    assert "\n" not in str(caught.value)


def test_data_without_masks_is_refused(shapes: Path) -> None:
    data = open_dataset(shapes, "train")
    bare = tuple(dataclasses.replace(r, segmentations=(None,) * len(r.boxes)) for r in data.records)
    with pytest.raises(InvalidValueError, match=r"needs masks.*augment\.copy_paste=0"):
        CopyPaste(dataclasses.replace(data, records=bare), 0.5)
    CopyPaste(dataclasses.replace(data, records=bare), 0.0)


# Pasting. The source is blue on black, the target white on grey: every pixel tells whose it is.

BLUE, WHITE = (255, 0, 0), (255, 255, 255)


def write(folder: Path, name: str, box: tuple[int, int, int, int], fill: Any, back: int) -> Record:
    frame = np.full((120, 160, 3), back, np.uint8)
    x1, y1, x2, y2 = box
    frame[y1:y2, x1:x2] = fill
    assert cv2.imwrite(str(folder / name), frame)
    polygon = [float(v) for v in (x1, y1, x2, y1, x2, y2, x1, y2)]
    boxes = np.array([box], np.float32)
    return Record.build(folder / name, 1, 160, 120, boxes, [0], segmentations=[[polygon]])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CopyPaste, Record, Dataset]:
    source = write(tmp_path, "source.png", (60, 40, 110, 80), BLUE, 0)
    target = write(tmp_path, "target.png", (40, 30, 90, 90), WHITE, 100)
    data = Dataset("pair", ("thing",), (source,), (1,))
    return CopyPaste(data, 1.0), target, data


def extent(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_pasted_boxes_are_tight_and_covered_objects_lose_their_label(
    pair: tuple[CopyPaste, Record, Dataset],
) -> None:
    paste, target, data = pair
    frame = data.read_image(target)
    before = frame.copy()
    pasted, shrunk, dropped = 0, 0, 0
    torch.manual_seed(0)
    for _ in range(150):
        image, (boxes, labels, scores) = paste(target, frame)
        assert len(boxes) == len(labels) == len(scores)
        blue = (image[..., 0].astype(int) - image[..., 2]) > 40
        white = (image == 255).all(axis=2)
        left = white.sum() / 3000
        own = boxes
        if blue.any():
            pasted += 1
            np.testing.assert_allclose(boxes[-1], extent(blue), atol=1)
            own = boxes[:-1]
        if left < 0.29:
            assert len(own) == 0
            dropped += 1
        elif left > 0.31:
            assert len(own) == 1
            # The sum of a blue edge pixel and nothing may be white to neither test: one pixel.
            np.testing.assert_allclose(own[0], extent(white), atol=1)
            shrunk += left < 1 and not np.array_equal(own[0], target.boxes[0])
    np.testing.assert_array_equal(frame, before)
    assert 50 < pasted < 100  # half of one object is half of the pictures
    assert shrunk > 0
    assert dropped > 0


def test_nothing_is_pasted_with_probability_zero(pair: tuple[CopyPaste, Record, Dataset]) -> None:
    _, target, data = pair
    image, (boxes, _, _) = CopyPaste(data, 0.0)(target, data.read_image(target))
    np.testing.assert_array_equal(image, data.read_image(target))
    np.testing.assert_array_equal(boxes, target.boxes)


def test_ignored_objects_are_neither_pasted_nor_targets(
    pair: tuple[CopyPaste, Record, Dataset],
) -> None:
    _, target, data = pair
    crowd = dataclasses.replace(data.records[0], crowd=np.array([True]))
    hard = dataclasses.replace(target, difficult=np.array([True]))
    paste = CopyPaste(dataclasses.replace(data, records=(crowd,)), 1.0)
    frame = data.read_image(target)
    for _ in range(10):
        image, (boxes, labels, _) = paste(hard, frame)
        np.testing.assert_array_equal(image, frame)
        assert boxes.shape == (0, 4)
        assert labels.shape == (0,)
