"""ModelSpec: everything about a detector that is not a weight.

Training writes it, export stores it in the ONNX metadata, the engine builder copies it into the
sidecar, and every runtime reads its preprocessing and postprocessing from it and from nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from trt_afdet.errors import InvalidValueError

#: Version of the JSON layout. A reader refuses anything newer than this.
SCHEMA_VERSION = 1

#: Key of the spec in the ONNX metadata.
METADATA_KEY = "trt_afdet.spec"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_WHOLE = ("height", "width", "pad_value", "candidates_per_level", "max_detections")


def _is_power_of_two(value: int) -> bool:
    return isinstance(value, Integral) and value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A detector's input, output, and the constants of its decoding.

    Attributes:
        name: Model name, for people.
        class_names: One name per class; the index is the class id.
        height, width: Network input in pixels, each a multiple of the largest stride.
        pad_value: Grey level of the letterbox border, 0..255.
        mean, std: Per-channel normalisation of pixels scaled to 0..1, in ``color_order``.
        color_order: ``"RGB"`` or ``"BGR"``: channel order of the network input.
        strides: Pixels per cell of each pyramid level, finest first (levels 3..7).
        regression_scale: S of Eq. (3): distances are in units of ``S * stride``.
        score_threshold: A (point, class) pair is a candidate if its probability is above this.
        candidates_per_level: Most candidates kept per level before NMS.
        nms_iou: A box is removed if its IoU with a better kept one is above this.
        class_agnostic: Whether NMS ignores the class.
        max_detections: Most boxes returned per image.
        schema_version: Layout of the JSON form.

    Raises:
        InvalidValueError: If a value is out of range.
    """

    name: str
    class_names: tuple[str, ...]
    height: int
    width: int
    pad_value: int = 128
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    color_order: str = "RGB"
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    regression_scale: float = 4.0
    score_threshold: float = 0.05
    candidates_per_level: int = 1000
    nms_iou: float = 0.5
    class_agnostic: bool = False
    max_detections: int = 100
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in _WHOLE:
            if not isinstance(getattr(self, name), Integral):
                raise InvalidValueError(f"{name} must be a whole number", got=getattr(self, name))
        names = self.class_names
        if isinstance(names, str) or not names or not all(isinstance(n, str) and n for n in names):
            raise InvalidValueError("class_names must hold at least one non-empty name")
        if len(set(self.class_names)) != len(self.class_names):
            raise InvalidValueError("class_names must not repeat", got=self.class_names)
        strides = self.strides
        if not strides or list(strides) != sorted({s for s in strides if _is_power_of_two(s)}):
            raise InvalidValueError("strides must increase and be powers of two", got=strides)
        for side in ("height", "width"):
            value = getattr(self, side)
            if value <= 0 or value % max(strides):
                what = f"{side} must be a positive multiple of {max(strides)}"
                raise InvalidValueError(what, got=value)
        if self.color_order not in ("RGB", "BGR"):
            raise InvalidValueError("color_order must be RGB or BGR", got=self.color_order)
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if not finite or len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            what = "mean and std must be three numbers, std above 0"
            raise InvalidValueError(what, got=(self.mean, self.std))
        if not 0 <= self.pad_value <= 255:
            raise InvalidValueError("pad_value must be 0..255", got=self.pad_value)
        if not 0 < self.regression_scale < math.inf:
            raise InvalidValueError("regression_scale must be above 0", got=self.regression_scale)
        for name in ("score_threshold", "nms_iou"):
            value = getattr(self, name)
            if not (0 <= value <= 1):
                raise InvalidValueError(f"{name} must be within 0..1", got=value)
        for name in ("candidates_per_level", "max_detections"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1", got=getattr(self, name))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def levels(self) -> tuple[int, ...]:
        """Pyramid level of each stride: log2, so (8, 16, ...) gives (3, 4, ...)."""
        return tuple(round(math.log2(s)) for s in self.strides)

    @property
    def grid_sizes(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each level."""
        return tuple((self.height // s, self.width // s) for s in self.strides)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the canonical ONNX outputs: all class heads, then all box heads."""
        return tuple(f"{kind}_p{level}" for kind in ("cls", "reg") for level in self.levels)

    def replace(self, **changes: Any) -> ModelSpec:
        """A copy with some values changed, validated again."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Reads the JSON form.

        Raises:
            InvalidValueError: If it is not a spec, or of a newer layout than this version knows.
        """
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidValueError("the model's spec is not JSON", got=error) from error
        if not isinstance(raw, dict) or not isinstance(raw.get("schema_version"), int):
            raise InvalidValueError("the model's spec lacks schema_version", got=text[:60])
        if raw["schema_version"] > SCHEMA_VERSION:
            what = f"the model's spec has schema version {raw['schema_version']}"
            what += f", this trt-afdet reads up to {SCHEMA_VERSION}"
            raise InvalidValueError(what, hint="upgrade trt-afdet")
        unknown = sorted(set(raw) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InvalidValueError("the model's spec has unknown keys", got=", ".join(unknown))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        try:
            return cls(**values)
        except TypeError as error:
            what = "the model's spec is incomplete or has a value of the wrong type"
            raise InvalidValueError(what, got=error) from error
