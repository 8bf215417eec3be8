"""Drawing boxes on a frame."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]

#: Neighbouring multiples of the golden ratio are far apart on the colour wheel.
_GOLDEN = 0.618033988749895


@lru_cache(maxsize=1024)
def class_color(class_id: int) -> Color:
    """A class's colour, BGR 0..255: the same in every frame and run, far from its neighbours'."""
    hue = (0.07 + class_id * _GOLDEN) % 1.0
    saturation = (0.85, 0.6, 1.0)[class_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better (ITU-R BT.601 luma)."""
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)


def draw_boxes(
    frame: npt.NDArray[np.uint8],
    xyxy: npt.NDArray[np.float32],
    class_id: npt.NDArray[np.integer[Any]],
    labels: Sequence[str],
) -> npt.NDArray[np.uint8]:
    """A copy of a frame, BGR uint8 [H, W, 3], with boxes and labels.

    Args:
        frame: Not changed.
        xyxy: float32 [N, 4] in pixels of the frame, the most important first: it is drawn on top.
        class_id: int [N], chooses the colours.
        labels: A text for each box.
    """
    canvas = np.array(frame, order="C")
    height, width = canvas.shape[:2]
    size = min(height, width)
    line = max(1, round(size / 300))
    scale = max(0.35, size / 1100)
    margin = line + 2
    boxes = list(zip(xyxy.tolist(), class_id.tolist(), labels, strict=True))
    for sides, number, text in reversed(boxes):
        color = class_color(number)
        # OpenCV takes 32 bits: a side far outside is drawn just outside.
        x1, x2 = (round(min(max(v, -margin), width + margin)) for v in sides[0::2])
        y1, y2 = (round(min(max(v, -margin), height + margin)) for v in sides[1::2])
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), line + 2)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, line)
        _label(canvas, text, (x1, y1), color, scale)
    return canvas


def _label(
    canvas: npt.NDArray[np.uint8], text: str, corner: tuple[int, int], color: Color, scale: float
) -> None:
    """A text above the box, or inside its top edge where there is no room above."""
    thickness, font = max(1, round(scale * 1.6)), cv2.FONT_HERSHEY_SIMPLEX
    (wide, tall), below = cv2.getTextSize(text, font, scale, thickness)
    margin = max(2, round(tall * 0.35))
    wide, tall = wide + 2 * margin, tall + below + 2 * margin
    left = max(0, min(corner[0], canvas.shape[1] - wide))
    top = corner[1] - tall if corner[1] >= tall else max(0, corner[1])
    cv2.rectangle(canvas, (left, top), (left + wide, top + tall), color, cv2.FILLED)
    place, ink = (left + margin, top + tall - below - margin), text_color(color)
    cv2.putText(canvas, text, place, font, scale, ink, thickness, cv2.LINE_AA)
