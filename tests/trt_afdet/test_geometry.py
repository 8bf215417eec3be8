"""Letterbox: placement by hand, and there and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_afdet.errors import InvalidValueError
from trt_afdet.geometry import Letterbox

sides = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("frame", "size", "top_left"),
    [
        ((1080, 1920), (288, 512), (112, 0)),
        ((1920, 1080), (512, 288), (0, 112)),
        ((512, 512), (512, 512), (0, 0)),
        ((100, 99), (512, 507), (0, 2)),  # The odd remainder goes right: 2 and 3.
        ((1, 5000), (1, 512), (255, 0)),
    ],
)
def test_placement_in_512(
    frame: tuple[int, int], size: tuple[int, int], top_left: tuple[int, int]
) -> None:
    box = Letterbox.fit(*frame, 512, 512)
    assert (box.height, box.width) == size
    assert (box.top, box.left) == top_left


@given(frame=st.tuples(sides, sides), target=st.tuples(sides, sides))
def test_the_frame_fits_and_touches(frame: tuple[int, int], target: tuple[int, int]) -> None:
    box = Letterbox.fit(*frame, *target)
    assert box.top >= 0
    assert box.left >= 0
    assert box.top + box.height <= target[0]
    assert box.left + box.width <= target[1]
    assert box.height == target[0] or box.width == target[1]


@given(
    frame=st.tuples(st.integers(16, 3000), st.integers(16, 3000)),
    seed=st.integers(0, 2**32 - 1),
)
def test_round_trip(frame: tuple[int, int], seed: int) -> None:
    height, width = frame
    corners = np.random.default_rng(seed).uniform(0, [width, height], (8, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    box = Letterbox.fit(height, width, 512, 768)
    inside = box.to_input(boxes)
    assert inside.dtype == np.float32
    # A float32 of the input's size is off by 3e-5, which the scale back multiplies.
    np.testing.assert_allclose(
        box.to_frame(inside), boxes, atol=1e-4 * max(1, 1 / box.scale_x, 1 / box.scale_y)
    )


def test_boxes_come_back_clipped_to_the_frame() -> None:
    box = Letterbox.fit(100, 200, 256, 256)
    assert box.to_frame([[0, 0, 256, 256]]).tolist() == [[0, 0, 200, 100]]
    assert box.to_frame(np.empty((0, 4))).shape == (0, 4)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(InvalidValueError, match="5x0 into"):
        Letterbox.fit(0, 5, 128, 128)
