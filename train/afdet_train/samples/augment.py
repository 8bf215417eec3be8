"""Augmentation of one picture and its boxes, as torchvision.transforms.v2 transforms."""

from __future__ import annotations

import math
from typing import Any

import torch
import torchvision.transforms.v2.functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from afdet_train.config import AugmentConfig


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


class Window(v2.Transform):
    """A window on the picture; what is outside the picture is grey.

    The following letterbox resizes the window, so each pixel is resampled once. Expects an image
    (uint8 [3, H, W]) and its BoundingBoxes (XYXY).
    """

    def __init__(self, config: AugmentConfig, pad_value: int) -> None:
        super().__init__()
        self.config = config
        self.pad_value = pad_value

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = inpt.shape[-2:] if not _is_boxes(inpt) else inpt.canvas_size
        (h, w), top, left = params["size"], params["top"], params["left"]
        pads = [max(0, -left), max(0, -top), max(0, left + w - width), max(0, top + h - height)]
        padded = F.pad(inpt, pads, fill=self.pad_value) if any(pads) else inpt
        return F.crop(padded, top + pads[1], left + pads[0], h, w)


class RandomWindow(Window):
    """Scale, box-safe crop and translation.

    A window smaller than the picture zooms in; a larger window zooms out.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        boxes = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes))
        height, width = boxes.canvas_size
        config = self.config
        scale = 1.0
        if float(torch.rand(())) < config.scale_p:
            low, high = config.scale
            scale = math.exp(uniform(math.log(low), math.log(high)))
        size = (height / scale, width / scale)
        shift = (height * config.translate, width * config.translate)
        safe = len(boxes) > 0 and float(torch.rand(())) < config.box_safe
        window: list[tuple[int, int]] = []
        for axis, (full, length, extra) in enumerate(
            zip((height, width), size, shift, strict=True)
        ):
            first, last = 0.0, float(full)
            if safe:
                # Whole pixels, so that rounding the window cannot cut a box.
                first = math.floor(float(boxes[:, 1 - axis].min()))
                last = math.ceil(float(boxes[:, 3 - axis].max()))
                length = max(length, last - first)
            slack = full - length  # positive: zoomed in; negative: zoomed out
            start = uniform(min(0.0, slack), max(0.0, slack)) + uniform(-extra, extra)
            if safe:
                start = min(max(start, last - length), first)
            window.append((round(start), max(1, math.ceil(length))))
        return {"top": window[0][0], "left": window[1][0], "size": (window[0][1], window[1][1])}


class FillingWindow(Window):
    """A window inside the picture, of the shape of a mosaic's tile.

    Args:
        config: ``mosaic_zoom`` is the least share of the largest such window.
        pad_value: Grey level.
        shape: Height and width of the tile, in any unit.
    """

    def __init__(self, config: AugmentConfig, pad_value: int, shape: tuple[int, int]) -> None:
        super().__init__(config, pad_value)
        self.shape = shape

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = next(x for x in flat_inputs if _is_boxes(x)).canvas_size
        unit = min(height / self.shape[0], width / self.shape[1])
        unit *= uniform(self.config.mosaic_zoom, 1.0)
        h, w = (max(1, round(side * unit)) for side in self.shape)
        top, left = (round(uniform(0.0, max(0, full - s))) for full, s in ((height, h), (width, w)))
        return {"top": top, "left": left, "size": (h, w)}


def _is_boxes(value: Any) -> bool:
    return isinstance(value, tv_tensors.BoundingBoxes)


def geometric(config: AugmentConfig, window: Window) -> v2.Transform:
    """Flip and window; applied before the letterbox."""
    return v2.Compose([v2.RandomHorizontalFlip(config.flip), window])


def photometric(config: AugmentConfig) -> v2.Transform:
    """Colour; applied after the letterbox, which leaves fewer pixels."""
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    return v2.RandomApply([jitter], p=config.color_p)
