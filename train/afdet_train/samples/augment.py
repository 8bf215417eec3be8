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


class RandomWindow(v2.Transform):
    """Scale, box-safe crop and translation as one window on the picture.

    A window smaller than the picture zooms in; a larger window zooms out and adds grey. The
    following letterbox resizes the window, so each pixel is resampled once. Expects an image
    (uint8 [3, H, W]) and its BoundingBoxes (XYXY).
    """

    def __init__(self, config: AugmentConfig, pad_value: int) -> None:
        super().__init__()
        self.config = config
        self.pad_value = pad_value

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

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = inpt.shape[-2:] if not _is_boxes(inpt) else inpt.canvas_size
        (h, w), top, left = params["size"], params["top"], params["left"]
        pads = [max(0, -left), max(0, -top), max(0, left + w - width), max(0, top + h - height)]
        padded = F.pad(inpt, pads, fill=self.pad_value) if any(pads) else inpt
        return F.crop(padded, top + pads[1], left + pads[0], h, w)


def _is_boxes(value: Any) -> bool:
    return isinstance(value, tv_tensors.BoundingBoxes)


def geometric(config: AugmentConfig, pad_value: int) -> v2.Transform:
    """Flip and window; applied before the letterbox."""
    return v2.Compose([v2.RandomHorizontalFlip(config.flip), RandomWindow(config, pad_value)])


def photometric(config: AugmentConfig) -> v2.Transform:
    """Colour; applied after the letterbox, which leaves fewer pixels."""
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    return v2.RandomApply([jitter], p=config.color_p)
