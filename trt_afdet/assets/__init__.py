"""The shipped model and its clip."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent

#: The model that every command and :class:`~trt_afdet.Detector` use unless another is named.
SHIPPED_MODEL = ASSETS / "model.onnx"

#: A film for it, with its boxes in ``clip.json`` (COCO).
SHIPPED_CLIP = ASSETS / "clip.mp4"
