"""From model.onnx to the ONNX an engine is built from: FP32, FP16, or INT8 with FP16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trt_afdet.datasets.index import ProgressLike
from trt_afdet.engine.onnx.model_file import Canonical
from trt_afdet.engine.options import (
    CALIBRATION_IMAGES,
    CALIBRATION_METHODS,
    HELD_OUT,
    IO_TYPES,
    MAX_AP_DROP,
)
from trt_afdet.engine.precision.blocks import expand
from trt_afdet.engine.precision.calibration import FEWEST, Ranges, Warn, calibrate
from trt_afdet.engine.precision.fp16 import out_of_range, to_half
from trt_afdet.engine.precision.placement import place
from trt_afdet.engine.precision.quantize import quantize
from trt_afdet.engine.precision.sensitivity import Sensitivity, measure
from trt_afdet.engine.sample_pictures import open_pictures
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.trt.sidecar import PRECISIONS

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How to convert.

    Attributes:
        io: Type of the input and the heads, ``"float16"`` or ``"float32"``; FP32 and INT8 without
            ``half`` are always float32.
        keep: Blocks or nodes of higher precision: FP32 for ``fp16``, not INT8 for ``int8``.
        half: For INT8, whether the rest is FP16 and the scales too (strongly typed builds,
            TensorRT 10 and newer). TensorRT 8.x wants False and types the rest by a flag.
        calibration: Folder, COCO .json or video; needed for INT8.
        calibration_images: How many of its pictures to use.
        method, cache: Of the ranges; see :func:`calibrate`.
        held_out: Pictures of the same source, not used for calibration, that sensitivity is
            measured on; 0 leaves it out, and then only ``keep`` is kept.
        max_ap_drop: Points of AP that INT8 may lose on them.
        progress: Shows how far a step is.
        warn: Receives warnings.
        measured: Told what INT8 does to each block, also where it is too much.

    Raises:
        InvalidValueError: If a value is out of range.
    """

    io: str = "float32"
    keep: tuple[str, ...] = ()
    half: bool = True
    calibration: str | Path | None = None
    calibration_images: int = CALIBRATION_IMAGES
    method: str = "minmax"
    cache: Path | None = None
    held_out: int = HELD_OUT
    max_ap_drop: float = MAX_AP_DROP
    progress: ProgressLike | None = None
    warn: Warn | None = None
    measured: Callable[[Sensitivity], None] | None = None

    def __post_init__(self) -> None:
        if self.io not in IO_TYPES:
            raise InvalidValueError(f"io must be {' or '.join(IO_TYPES)}", got=self.io)
        if self.method not in CALIBRATION_METHODS:
            raise InvalidValueError(
                f"the method must be one of {', '.join(CALIBRATION_METHODS)}", got=self.method
            )
        if self.calibration_images < FEWEST:
            raise InvalidValueError(
                f"calibration needs at least {FEWEST} pictures", got=self.calibration_images
            )
        if self.held_out < 0 or not self.max_ap_drop > 0:
            raise InvalidValueError(
                "held_out must not be below 0, and max_ap_drop above it",
                got=f"{self.held_out}, {self.max_ap_drop}",
            )


@dataclass(frozen=True)
class Converted:
    """A converted model.

    Attributes:
        model: To build from, or to run in ONNX Runtime.
        precision: The requested one.
        kept: Blocks and nodes in higher precision than asked: by ``keep``, by what FP16 can hold,
            or by sensitivity.
        calibration_key: Of the ranges; None without INT8.
    """

    model: onnx.ModelProto
    precision: str
    kept: tuple[str, ...] = ()
    calibration_key: str | None = None


def convert(
    source: str | Path | Canonical, precision: str, options: ConvertOptions | None = None
) -> Converted:
    """Writes ``"fp32"``, ``"fp16"`` or ``"int8"`` into a canonical model, or a file of one.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: If model, pictures or options are not
            what they must be.
        RunError: If INT8 cannot keep the loss within ``max_ap_drop``, or the quantizer fails.
        MissingDependencyError: If onnx or onnxruntime is not installed.
    """
    options = options or ConvertOptions()
    if precision not in PRECISIONS:
        raise InvalidValueError(f"precision must be one of {', '.join(PRECISIONS)}", got=precision)
    if precision == "int8" and options.calibration is None:
        raise InvalidValueError("INT8 needs calibration pictures", hint="--calib FOLDER")
    canonical = source if isinstance(source, Canonical) else Canonical.load(source)
    model = canonical.model
    asked = expand(model, options.keep)
    if precision == "fp32":
        return Converted(model, precision)
    too_large = _too_large(model, options.warn) if precision == "fp16" or options.half else set()
    kept = (*options.keep, *sorted(too_large))
    if precision == "fp16":
        return Converted(to_half(model, asked | too_large, options.io), precision, kept)
    ranges, damaged = _measure(canonical, asked | too_large, options)
    quantized = quantize(
        model,
        canonical.spec,
        ranges,
        keep=asked | too_large | expand(model, damaged),
        half_scales=options.half,
        keep_fp32=too_large,
        io=options.io,
    )
    return Converted(quantized, precision, (*kept, *damaged), ranges.key)


def _measure(
    canonical: Canonical, fixed: set[str], options: ConvertOptions
) -> tuple[Ranges, tuple[str, ...]]:
    """The ranges, and the blocks that INT8 hurts too much, where that is measured."""
    model, spec = canonical.model, canonical.spec
    assert options.calibration is not None
    pictures = open_pictures(options.calibration)
    # A small source still has some of both.
    held_out = max(0, min(options.held_out, len(pictures) // 4, len(pictures) - FEWEST))
    if options.held_out and not held_out and options.warn is not None:
        options.warn(f"too few pictures to measure what INT8 hurts: {len(pictures)}")
    rest, held = pictures.spread(options.calibration_images + held_out).split(held_out)
    ranges = calibrate(
        model,
        spec,
        rest,
        # Ranges of everything that could be quantized serve every choice of kept blocks.
        place(model).tensors,
        method=options.method,
        model_sha256=canonical.sha256,
        cache=options.cache,
        progress=options.progress,
        warn=options.warn,
    )
    if not held_out:
        return ranges, ()
    limit = options.max_ap_drop
    found = measure(
        model, spec, ranges, held, max_ap_drop=limit, keep=fixed, progress=options.progress
    )
    if options.measured is not None:
        options.measured(found)
    if not found.reached:
        raise RunError(
            f"INT8 loses more than {limit:g} points of AP, even with all blocks but one kept",
            got=f"{found.steps[-1].ap_drop:.2f} on {found.pictures} held-out pictures",
            hint="use fp16, another calibration method, or allow more",
        )
    return ranges, found.kept


def _too_large(model: onnx.ModelProto, warn: Warn | None) -> set[str]:
    """Nodes whose stored values FP16 cannot hold: they stay FP32, and it is told."""
    nodes: set[str] = set()
    for found in out_of_range(model):
        nodes.update(found.nodes)
        if warn is not None:
            warn(
                f"{found.tensor} reaches {found.largest:g}, beyond FP16's 65504: "
                f"{', '.join(found.nodes)} stays FP32"
            )
    return nodes
