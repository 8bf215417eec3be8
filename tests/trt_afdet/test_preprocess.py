"""Preprocessing against the same written out in plain NumPy."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from trt_afdet.errors import InvalidValueError
from trt_afdet.preprocess import letterbox, normalise, preprocess
from trt_afdet.spec import ModelSpec

SPEC = ModelSpec(name="t", class_names=("a",), height=256, width=384)


def frame(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bilinear(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.float64]:
    """Bilinear resize with half-pixel centres and repeated edges, from its definition."""

    def axis(new: int, old: int) -> tuple[npt.NDArray[np.intp], ...]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(np.intp)
        return low, np.minimum(low + 1, old - 1), at - low

    y0, y1, fy = axis(height, image.shape[0])
    x0, x1, fx = axis(width, image.shape[1])
    data = image.astype(np.float64)
    rows = data[y0] * (1 - fy)[:, None, None] + data[y1] * fy[:, None, None]
    return rows[:, x0] * (1 - fx)[None, :, None] + rows[:, x1] * fx[None, :, None]


@pytest.mark.parametrize("size", [(480, 640), (100, 800), (900, 90), (256, 384), (37, 51)])
def test_resize_is_bilinear_with_half_pixel_centres(size: tuple[int, int]) -> None:
    image = frame(*size)
    canvas, box = letterbox(image, 256, 384, 128)
    part = canvas[box.top : box.top + box.height, box.left : box.left + box.width]
    want = bilinear(image, box.height, box.width)
    # OpenCV weighs with 11 bits and rounds: within one grey level.
    assert np.abs(part.astype(np.float64) - want).max() <= 1.0


def test_the_border_is_grey_and_nothing_else_is() -> None:
    image = np.full((100, 100, 3), 7, np.uint8)
    canvas, box = letterbox(image, 256, 384, 128)
    border = np.ones((256, 384), np.bool_)
    border[box.top : box.top + box.height, box.left : box.left + box.width] = False
    assert (canvas[border] == 128).all()
    assert (canvas[~border] == 7).all()


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_normalise_equals_the_formula(order: str) -> None:
    spec = SPEC.replace(color_order=order)
    canvas = frame(256, 384)
    channels = canvas[:, :, ::-1] if order == "RGB" else canvas
    want = (channels / 255.0 - np.array(spec.mean)) / np.array(spec.std)
    got = normalise(canvas, spec)
    assert got.dtype == np.float32
    assert got.shape == (3, 256, 384)
    np.testing.assert_array_equal(got, want.transpose(2, 0, 1).astype(np.float32))


def test_normalise_of_lite0_is_minus_127_over_128() -> None:
    """(x - 127) / 128, written as mean and std of pixels in 0..1."""
    spec = SPEC.replace(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    canvas = frame(256, 384)
    want = (canvas[:, :, ::-1].astype(np.float64) - 127) / 128
    np.testing.assert_allclose(normalise(canvas, spec), want.transpose(2, 0, 1), atol=1e-6)


def test_a_batch_of_any_sizes_and_memory_layouts() -> None:
    whole = frame(300, 400)
    frames = [whole, frame(50, 500), whole[10:-10, 5:-5], np.asfortranarray(whole)]
    images, boxes = preprocess(frames, SPEC)
    assert images.shape == (4, 3, 256, 384)
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert [(b.frame_height, b.frame_width) for b in boxes] == [f.shape[:2] for f in frames]
    np.testing.assert_array_equal(images[0], images[3])
    alone, _ = preprocess([np.ascontiguousarray(frames[2])], SPEC)
    np.testing.assert_array_equal(images[2], alone[0])
    assert preprocess([], SPEC)[0].shape == (0, 3, 256, 384)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        None,
    ],
)
def test_what_is_no_frame(bad: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InvalidValueError, match="a frame must be"):
        preprocess([bad], SPEC)


def test_the_frame_is_not_changed() -> None:
    image = frame(256, 384)
    before = image.copy()
    preprocess([image], SPEC)
    np.testing.assert_array_equal(image, before)
    assert cv2.countNonZero(image[:, :, 0]) > 0
