"""Rules: which visible objects get boxes, and which frames are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from afdet_train.doom.classes import CLASS_OF_ACTOR, CLASSES

#: A box whose shorter side is below this many pixels is not annotated.
MIN_SIDE = 8
#: An object is annotated only if at least this share of its sprite's area is visible.
MIN_VISIBLE = 0.4
#: A frame is dropped if the brightest tenth of an annotated object's pixels is below this (0 to
#: 255, largest channel), because the object is too dark to see.
MIN_BRIGHTNESS = 48.0
#: Surfaces with a depth value below this are directly in front of the lens.
NEAR_DEPTH = 8
#: Share of frames without objects.
EMPTY_SHARE = 0.05
#: Horizontal field of view in degrees (Doom's own), and the pixel aspect of its 4:3 picture.
FOV = 90.0
PIXEL_ASPECT = 1.2


@dataclass(frozen=True)
class Camera:
    """The camera's pose: map units, and degrees counter-clockwise from east."""

    x: float
    y: float
    z: float
    angle: float


@dataclass(frozen=True)
class Box:
    """One annotated object: tight pixel box (x, y, w, h), visible area in pixels."""

    class_id: int
    xywh: tuple[int, int, int, int]
    area: int
    #: Visible area divided by the area of the whole sprite at this distance.
    visible: float
    #: 90th percentile of its visible pixels' largest channel, 0 to 255.
    brightness: float


def focal(width: int) -> tuple[float, float]:
    """Focal lengths (fx, fy) in pixels of a 4:3 frame that is `width` pixels wide."""
    fx = width / 2 / math.tan(math.radians(FOV / 2))
    return fx, fx * PIXEL_ASPECT


def depth_of(camera: Camera, x: float, y: float) -> float:
    """Distance of a map point along the camera's axis, in map units."""
    a = math.radians(camera.angle)
    return (x - camera.x) * math.cos(a) + (y - camera.y) * math.sin(a)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, w, h) of the set pixels of a non-empty (H, W) mask."""
    ys = np.flatnonzero(mask.any(axis=1))
    xs = np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


def measure(
    labels: Any, labels_buffer: np.ndarray, screen: np.ndarray, camera: Camera
) -> list[tuple[Any, Box]]:
    """All visible objects with a class, with the box of their visible pixels, before the rules.

    Args:
        labels: ViZDoom's labels of a state.
        labels_buffer: (H, W) uint8, the label value at each pixel.
        screen: (H, W, 3) uint8.
        camera: The camera's pose.
    """
    fx, fy = focal(labels_buffer.shape[1])
    out = []
    for label in labels:
        index = CLASS_OF_ACTOR.get(label.object_name)
        if index is None:
            continue
        # The label's box only limits the search; the box comes from the label's pixels.
        x0, y0 = max(label.x - 1, 0), max(label.y - 1, 0)
        window = labels_buffer[y0 : label.y + label.height + 1, x0 : label.x + label.width + 1]
        mask = window == label.value
        area = int(mask.sum())
        if area == 0:
            continue
        x, y, w, h = tight_box(mask)
        depth = max(depth_of(camera, label.object_position_x, label.object_position_y), 1.0)
        whole = CLASSES[index].area * fx * fy / depth**2
        look = screen[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]][mask].max(axis=1)
        box = Box(index, (x + x0, y + y0, w, h), area, area / whole, float(np.percentile(look, 90)))
        out.append((label, box))
    return out


def keep(box: Box) -> bool:
    """Whether the object is annotated: large enough, and enough of it visible."""
    return min(box.xywh[2:]) >= MIN_SIDE and box.visible >= MIN_VISIBLE


def inside_and_open(screen: np.ndarray, depth: np.ndarray, boxes: list[Box]) -> bool:
    """Whether a frame shows the level, and not only a wall, the void or darkness.

    Args:
        screen: (H, W, 3) uint8.
        depth: (H, W) uint8, ViZDoom's depth buffer; 0 is at the lens.
        boxes: The objects in it; these areas may be near the lens.
    """
    small = screen[::8, ::8]
    if float(small.mean()) < 14 or float(small.std()) < 8:
        return False
    free = np.ones(depth.shape, bool)
    for b in boxes:
        x, y, w, h = b.xywh
        free[y : y + h, x : x + w] = False
    rest = depth[free]
    return rest.size < 1000 or float((rest[::16] < NEAR_DEPTH).mean()) < 0.5
