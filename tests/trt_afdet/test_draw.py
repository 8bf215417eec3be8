"""Drawing: a copy, at borders, on frames of any size."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from trt_afdet.detections import Detections
from trt_afdet.draw import class_color, text_color
from trt_afdet.errors import InvalidValueError

NAMES = ("imp", "a class with quite a long name")


def frame(height: int = 240, width: int = 320) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def found(*boxes: tuple[float, float, float, float], class_id: int = 0) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.full(count, class_id, np.int32),
        NAMES,
    )


def test_the_frame_stays_and_the_copy_has_box_and_label() -> None:
    image = frame()
    drawn = found((100, 80, 200, 180)).draw(image)
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    color = class_color(0)
    for y, x in ((80, 150), (180, 150), (130, 100), (130, 200)):  # the four sides
        assert drawn[y, x].tolist() == list(color)
    assert (drawn[130, 150] == 90).all()  # the inside is free
    assert (drawn[80 - 8 : 80 - 2, 102:140] == color).all(axis=2).any()  # the label above


def test_nothing_found_is_an_equal_copy() -> None:
    image = frame()
    drawn = Detections.empty(NAMES).draw(image)
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (16, 16), (2160, 3840)])
def test_any_frame_size(size: tuple[int, int]) -> None:
    height, width = size
    boxes = found((0, 0, width, height), (width / 3, height / 3, width / 2, height / 2), class_id=1)
    drawn = boxes.draw(frame(height, width))
    assert drawn.shape == (height, width, 3)
    assert (drawn != 90).any()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 20, 20),
        (300, 0, 320, 20),
        (0, 220, 20, 240),
        (300, 220, 320, 240),
        (0, 0, 320, 240),
        (-50, -50, 30, 30),
        (290, 200, 1e9, 1e9),
    ],
)
@pytest.mark.parametrize("class_id", [0, 1])
def test_a_label_at_the_border_stays_readable(
    box: tuple[float, float, float, float], class_id: int
) -> None:
    """Its background shows as many pixels as in the middle of the frame, less the box's lines."""
    color = class_color(class_id)

    def filled(at: tuple[float, float, float, float]) -> int:
        drawn = found(at, class_id=class_id).draw(frame())
        return int((drawn == color).all(axis=2).sum())

    label = filled((100, 100, 101, 101))
    assert filled(box) > 0.9 * label > 300


def test_views_that_are_not_contiguous() -> None:
    image = frame(240, 320)[::2, ::-1]
    boxes = found((10, 30, 60, 80))
    plain = boxes.draw(np.ascontiguousarray(image))
    np.testing.assert_array_equal(boxes.draw(image), plain)


def test_the_best_is_on_top() -> None:
    box = (100.0, 80.0, 200.0, 180.0)
    pair = Detections([box, box], [0.9, 0.4], [0, 1], NAMES)  # type: ignore[arg-type]
    assert pair.draw(frame())[180, 150].tolist() == list(class_color(0))


def test_a_frame_that_is_none() -> None:
    with pytest.raises(InvalidValueError, match="a float picture may mean"):
        found((0, 0, 4, 4)).draw(np.zeros((8, 8, 3), np.float32))


def test_colors_of_neighbours_are_apart_and_text_is_readable() -> None:
    colors = [class_color(i) for i in range(80)]
    assert len(set(colors)) == 80
    for a, b in itertools.pairwise(colors):
        assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) > 60
    assert text_color((255, 255, 255)) == (0, 0, 0)
    assert text_color((0, 0, 0)) == (255, 255, 255)
