"""From model.onnx to the ONNX an engine is built from: FP32, FP16, or INT8 with FP16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from trt_afdet.engine.precision.calibration import (
    FEWEST,
    Ranges,
    Warn,
    calibrate,
)
from trt_afdet.engine.precision.fp16 import emulate_half, out_of_range, to_half
from trt_afdet.engine.precision.placement import place
from trt_afdet.engine.precision.quantize import quantize
from trt_afdet.engine.precision.sensitivity import Sensitivity, measure
from trt_afdet.engine.sample_pictures import open_pictures
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.spec import ModelSpec
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
        calibration_images: How many to use.
        method: One of :data:`~trt_afdet.engine.options.CALIBRATION_METHODS`.
        cache: Where to keep the ranges; nowhere by default.
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
        spec: Its spec.
        precision: The requested one.
        kept: Blocks and nodes in higher precision than asked: by ``keep``, by what FP16 can hold,
            or by sensitivity.
        calibration_key: Of the ranges; None without INT8.
        sensitivity: Its measurement; None without.
        report: JSON types: counts of operators, what was kept and why, blocks, calibration.
    """

    model: onnx.ModelProto
    spec: ModelSpec
    precision: str
    kept: tuple[str, ...]
    calibration_key: str | None = None
    sensitivity: Sensitivity | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def to_run(self) -> onnx.ModelProto:
        """The model to verify in ONNX Runtime: its CPU provider leaves out FP16's rounding, so this
        has it written in."""
        return emulate_half(self.model)


def convert(
    source: str | Path | Canonical, precision: str, options: ConvertOptions | None = None
) -> Converted:
    """Writes the precision into a canonical model.

    Args:
        source: The exported model.onnx, or what was read from it.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        options: How.

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
    model, spec = canonical.model, canonical.spec
    asked = expand(model, options.keep)
    if precision == "fp32":
        return Converted(model, spec, precision, (), report={"operators": _operators(model)})
    if precision == "fp16":
        too_large = _too_large(model, options.warn)
        half = to_half(model, asked | too_large, options.io)
        report = {"operators": _operators(half), "out_of_fp16_range": sorted(too_large)}
        return Converted(half, spec, precision, (*options.keep, *sorted(too_large)), report=report)
    return _to_int8(canonical, asked, options)


def _to_int8(canonical: Canonical, asked: set[str], options: ConvertOptions) -> Converted:
    model, spec = canonical.model, canonical.spec
    too_large = _too_large(model, options.warn) if options.half else set()
    fixed = asked | too_large
    assert options.calibration is not None
    pictures = open_pictures(options.calibration)
    # A small source still has some of both.
    held_out = max(0, min(options.held_out, len(pictures) // 4, len(pictures) - FEWEST))
    if options.held_out and not held_out and options.warn is not None:
        options.warn(f"too few pictures to measure what INT8 hurts: {len(pictures)}")
    chosen = pictures.spread(options.calibration_images + held_out)
    rest, held = chosen.split(held_out)
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
    found = None
    nodes: set[str] = set()
    if held_out:
        found = measure(
            model,
            spec,
            ranges,
            held,
            max_ap_drop=options.max_ap_drop,
            keep=fixed,
            progress=options.progress,
        )
        if options.measured is not None:
            options.measured(found)
        if not found.reached:
            raise RunError(
                f"INT8 loses more than {options.max_ap_drop:g} points of AP, "
                "even with all blocks but one kept",
                got=f"{found.steps[-1].ap_drop:.2f} on {found.pictures} held-out pictures",
                hint="use fp16, another calibration method, or allow more",
            )
        nodes = expand(model, found.kept)
    result = quantize(
        model,
        spec,
        ranges,
        keep=fixed | nodes,
        half_scales=options.half,
        keep_fp32=too_large,
        io=options.io,
    )
    report = {
        "operators": _operators(result.model),
        "out_of_fp16_range": sorted(too_large),
        "blocks": [list(row) for row in result.rows],
        "float_because": dict(Counter(result.placement.reasons.values())),
        "calibration": _calibration(ranges, str(options.calibration)),
        "sensitivity": None if found is None else found.to_json(),
    }
    kept = (*options.keep, *sorted(too_large), *(found.kept if found is not None else ()))
    return Converted(result.model, spec, "int8", kept, ranges.key, found, report)


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


def _operators(model: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def _calibration(ranges: Ranges, source: str) -> dict[str, Any]:
    return {
        "source": source,
        "method": ranges.method,
        "pictures": ranges.pictures,
        "skipped": ranges.skipped,
        "cached": ranges.cached,
        "key": ranges.key,
    }
