"""Which visible objects become boxes, and which frames are worth keeping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from afdet_train.doom.classes import CLASS_OF_ACTOR, CLASSES

#: A box whose shorter side is under this many pixels is not annotated.
MIN_SIDE = 8
#: An object is annotated only if at least this share of its sprite's area can be seen.
MIN_VISIBLE = 0.4
#: A frame with an annotated object whose brightest tenth of pixels stays under this (0 to 255,
#: largest channel) is not kept: nobody could see the object.
MIN_BRIGHTNESS = 48.0
#: Depth value under which a surface counts as right in front of the lens.
NEAR_DEPTH = 8
#: Share of the frames that show no object at all.
EMPTY_SHARE = 0.05
#: Horizontal field of view in degrees (Doom's own), and the pixel aspect of its 4:3 picture.
FOV = 90.0
PIXEL_ASPECT = 1.2


@dataclass(frozen=True)
class Camera:
    """Where the picture was taken from: map units and degrees, counter-clockwise from east."""

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
    #: Visible area over the area the whole sprite would have at this distance.
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
    """(x, y, w, h) of the true pixels of a non-empty (H, W) mask."""
    ys = np.flatnonzero(mask.any(axis=1))
    xs = np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


def measure(
    labels: Any, labels_buffer: np.ndarray, screen: np.ndarray, camera: Camera
) -> list[tuple[Any, Box]]:
    """Every visible object of a class, with the box of its visible pixels, before any rule.

    Args:
        labels: ViZDoom's labels of a state.
        labels_buffer: (H, W) uint8, the label value at each pixel.
        screen: (H, W, 3) uint8.
        camera: Where it was seen from.
    """
    fx, fy = focal(labels_buffer.shape[1])
    out = []
    for label in labels:
        index = CLASS_OF_ACTOR.get(label.object_name)
        if index is None:
            continue
        # The label's own box is only where to look: its pixels decide.
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
    """The annotation rule: big enough, and enough of it to be seen."""
    return min(box.xywh[2:]) >= MIN_SIDE and box.visible >= MIN_VISIBLE


def inside_and_open(screen: np.ndarray, depth: np.ndarray, boxes: list[Box]) -> bool:
    """Whether a frame looks into the level, and not at a wall, the void or pitch dark.

    Args:
        screen: (H, W, 3) uint8.
        depth: (H, W) uint8, ViZDoom's depth buffer; 0 is at the lens.
        boxes: The objects in it: what they cover may be near.
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
