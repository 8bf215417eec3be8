"""Frame to network input: the one definition used in training, calibration and every runtime.

BGR uint8 frame -> bilinear resize (half-pixel centres) -> centred on grey -> channel order of the
spec -> /255 -> mean and std -> NCHW float32.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError
from trt_afdet.geometry import Letterbox
from trt_afdet.spec import ModelSpec


def check_frame(frame: object) -> npt.NDArray[np.uint8]:
    """The frame, if it is BGR uint8 [H, W, 3] and not empty; else an InvalidValueError."""
    if not isinstance(frame, np.ndarray):
        raise InvalidValueError("a frame must be a numpy array", got=type(frame).__name__)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        what = "a frame must be BGR uint8 of shape [height, width, 3]"
        hint = "cv2.imread and cv2.VideoCapture return such frames"
        raise InvalidValueError(what, got=f"{frame.dtype} {list(frame.shape)}", hint=hint)
    return frame


def letterbox(
    frame: npt.NDArray[np.uint8], height: int, width: int, pad_value: int
) -> tuple[npt.NDArray[np.uint8], Letterbox]:
    """Places a frame, BGR uint8 [H, W, 3], on a canvas of a grey level, and tells where."""
    box = Letterbox.fit(frame.shape[0], frame.shape[1], height, width)
    size = (box.width, box.height)
    resized = frame
    if frame.shape[1::-1] != size:
        resized = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    if size == (width, height):
        return resized, box
    canvas = np.full((height, width, 3), pad_value, np.uint8)
    canvas[box.top : box.top + box.height, box.left : box.left + box.width] = resized
    return canvas, box


@lru_cache(maxsize=16)
def _normalise_table(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[npt.NDArray[np.float32], ...]:
    """One table of 256 float32 per channel: pixels have 256 values, so no arithmetic is needed."""
    pixel = np.arange(256, dtype=np.float64) / 255.0
    return tuple(((pixel - m) / s).astype(np.float32) for m, s in zip(mean, std, strict=True))


def normalise(
    canvas: npt.NDArray[np.uint8], spec: ModelSpec, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Canvas, BGR uint8 [H, W, 3], to a network input, float32 [3, H, W]: a new one or ``out``."""
    if out is None:
        out = np.empty((3, *canvas.shape[:2]), np.float32)
    for channel, table in enumerate(_normalise_table(spec.mean, spec.std)):
        source = 2 - channel if spec.color_order == "RGB" else channel
        cv2.LUT(cv2.extractChannel(canvas, source), table, dst=out[channel])
    return out


def preprocess(
    frames: list[npt.NDArray[np.uint8]], spec: ModelSpec
) -> tuple[npt.NDArray[np.float32], list[Letterbox]]:
    """Frames of any sizes to one network input.

    Args:
        frames: N frames, BGR uint8 [H, W, 3] each.
        spec: Gives size, padding and normalisation.

    Returns:
        float32 [N, 3, spec.height, spec.width], and each frame's placement.

    Raises:
        InvalidValueError: If a frame is not what it must be.
    """
    images = np.empty((len(frames), 3, spec.height, spec.width), np.float32)
    boxes = []
    for index, frame in enumerate(frames):
        canvas, box = letterbox(check_frame(frame), spec.height, spec.width, spec.pad_value)
        normalise(canvas, spec, out=images[index])
        boxes.append(box)
    return images, boxes
