"""Letterbox: how a frame is placed inside the network input, and how boxes come back.

The frame is scaled by one ratio until it touches the input's sides, and centred; the rest is
border. The one definition of that placement, for training, calibration and every runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError


@dataclass(frozen=True)
class Letterbox:
    """Placement of one frame inside the network input, all in pixels.

    Attributes:
        frame_height, frame_width: The frame as captured.
        input_height, input_width: The network input.
        height, width: The resized frame inside the input.
        top, left: Border above and left of it; an odd remainder goes below and right.
    """

    frame_height: int
    frame_width: int
    input_height: int
    input_width: int
    height: int
    width: int
    top: int
    left: int

    @classmethod
    def fit(
        cls, frame_height: int, frame_width: int, input_height: int, input_width: int
    ) -> Letterbox:
        """The largest centred placement that keeps the aspect ratio.

        Raises:
            InvalidValueError: If a size is not positive.
        """
        if min(frame_height, frame_width, input_height, input_width) <= 0:
            got = f"{frame_width}x{frame_height} into {input_width}x{input_height}"
            raise InvalidValueError("a letterbox needs positive sizes", got=got)
        ratio = min(input_height / frame_height, input_width / frame_width)
        height = min(input_height, max(1, round(frame_height * ratio)))
        width = min(input_width, max(1, round(frame_width * ratio)))
        top, left = (input_height - height) // 2, (input_width - width) // 2
        sizes = (frame_height, frame_width, input_height, input_width)
        return cls(*sizes, height=height, width=width, top=top, left=left)

    @property
    def scale_x(self) -> float:
        """Input pixels per frame pixel, horizontally (the two differ by the rounding only)."""
        return self.width / self.frame_width

    @property
    def scale_y(self) -> float:
        return self.height / self.frame_height

    def to_input(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Frame boxes to input boxes. [..., 4] x1 y1 x2 y2 -> float32 of the same shape."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.left, self.top] * 2)
        return (np.asarray(boxes, np.float64) * scale + shift).astype(np.float32)

    def to_frame(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Input boxes back to the frame, clipped to it. [..., 4] -> float32 of the same shape."""
        scale = np.array([self.scale_x, self.scale_y] * 2)
        shift = np.array([self.left, self.top] * 2)
        limit = np.array([self.frame_width, self.frame_height] * 2)
        out = (np.asarray(boxes, np.float64) - shift) / scale
        return np.clip(out, 0, limit).astype(np.float32)
