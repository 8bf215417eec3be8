"""Which blocks INT8 damages, and which must therefore stay in FP16.

Each block is quantized alone and run on pictures that calibration did not see. Then all are
quantized, and the worst one after the other is taken out until the loss is small enough.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from trt_afdet.datasets.index import ProgressLike
from trt_afdet.detections import Detections
from trt_afdet.engine.compare import (
    AP_CONFIDENCE,
    ErrorSum,
    Heads,
    as_truth,
    average_precision,
    batches,
    detect,
    in_onnxruntime,
    infer,
)
from trt_afdet.engine.options import MAX_AP_DROP
from trt_afdet.engine.precision.blocks import blocks
from trt_afdet.engine.precision.calibration import Ranges
from trt_afdet.engine.precision.placement import place
from trt_afdet.engine.precision.quantize import quantize
from trt_afdet.engine.sample_pictures import Pictures
from trt_afdet.errors import InvalidValueError
from trt_afdet.spec import ModelSpec
from trt_afdet.support.figures import new_figure, save_figure

if TYPE_CHECKING:
    import onnx


class BlockDamage(NamedTuple):
    """What quantizing one block alone does to its ``nodes`` with weights.

    ``error`` is the root mean square error of the outputs over the reference's, the mean of all
    heads; ``ap_drop`` are points of AP lost.
    """

    block: str
    nodes: int
    error: float
    ap_drop: float


class Step(NamedTuple):
    """One network tried: which blocks were kept, and what it lost."""

    kept: tuple[str, ...]
    ap_drop: float
    error: float


class Sensitivity(NamedTuple):
    """The whole measurement: blocks, the most damaging first, and the steps to what is enough.

    ``labelled``: AP is against drawn boxes; else against the reference's own detections, which is
    stricter. ``limit`` are points of AP that may be lost.
    """

    rows: tuple[BlockDamage, ...]
    steps: tuple[Step, ...]
    pictures: int
    labelled: bool
    limit: float

    @property
    def kept(self) -> tuple[str, ...]:
        """Blocks to keep in floating point."""
        return self.steps[-1].kept

    @property
    def reached(self) -> bool:
        return self.steps[-1].ap_drop <= self.limit

    def table(self) -> list[list[str]]:
        """Rows of text: block, INT8 layers, output error in %, AP lost, where it stays."""
        return [
            [
                row.block,
                str(row.nodes),
                f"{100 * row.error:.2f}",
                f"{row.ap_drop:+.2f}",
                "kept" if row.block in self.kept else "INT8",
            ]
            for row in self.rows
        ]


class HeldOut:
    """Pictures, not those of calibration, with the outputs of the FP32 network.

    Raises:
        InvalidValueError: If no picture can be read, or the network finds nothing and nobody drew
            boxes.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        spec: ModelSpec,
        pictures: Pictures,
        progress: ProgressLike | None = None,
    ) -> None:
        self.spec = spec
        self.reference: list[Heads] = []
        found: list[Detections] = []
        sizes: list[tuple[int, int]] = []
        used: list[int] = []
        with in_onnxruntime(model) as backend:
            for indices, images, boxes in batches(pictures, spec, progress, "held-out pictures"):
                heads = infer(backend, images)
                self.reference.append(heads)
                found += detect(backend, heads, boxes, AP_CONFIDENCE)
                sizes += [(box.frame_width, box.frame_height) for box in boxes]
                used += indices
        if not used:
            raise InvalidValueError("no held-out picture can be read", got=pictures.source)
        self.pictures = pictures.choose(used)
        self.labelled = self.pictures.truth is not None
        self.truth = self.pictures.truth_for(spec.class_names) or as_truth(
            self.pictures, found, sizes
        )
        self.best = average_precision(self.truth, found)
        if self.best != self.best:
            raise InvalidValueError(
                "the held-out pictures show nothing that INT8 could lose",
                got=f"{len(used)} pictures without an object",
                hint="calibrate with pictures like those the detector will see",
            )

    def loss(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Points of AP lost, and the output error."""
        errors = ErrorSum(self.spec.output_names)
        found: list[Detections] = []
        expected = iter(self.reference)
        with in_onnxruntime(model) as backend:
            for _, images, boxes in batches(self.pictures, self.spec, None, ""):
                heads = infer(backend, images)
                errors.add(next(expected), heads)
                found += detect(backend, heads, boxes, AP_CONFIDENCE)
        error = fmean(row.rms for row in errors.result())
        return self.best - average_precision(self.truth, found), error


def measure(
    model: onnx.ModelProto,
    spec: ModelSpec,
    ranges: Ranges,
    held_out: Pictures,
    *,
    max_ap_drop: float = MAX_AP_DROP,
    keep: Collection[str] = (),
    progress: ProgressLike | None = None,
) -> Sensitivity:
    """Measures each block on held-out pictures, then finds those that must stay in floating point.

    The nodes of ``keep`` stay so in any case. ``max_ap_drop`` are points of AP that may be lost.
    """
    slice_ = HeldOut(model, spec, held_out, progress)
    planned = set(place(model, keep).nodes)
    parts = {block: names for block, names in blocks(model).items() if planned.intersection(names)}

    def loss(kept: Collection[str]) -> tuple[float, float]:
        nodes = {name for block in kept for name in parts[block]}
        return slice_.loss(quantize(model, spec, ranges, keep={*keep, *nodes}))

    rows = []
    for block in progress(list(parts), len(parts), "sensitivity") if progress else parts:
        drop, error = loss([other for other in parts if other != block])
        rows.append(BlockDamage(block, len(planned.intersection(parts[block])), error, drop))
    rows.sort(key=lambda row: row.error, reverse=True)
    steps = _keep_worst([row.block for row in rows], loss, max_ap_drop)
    return Sensitivity(
        tuple(rows), tuple(steps), len(slice_.pictures), slice_.labelled, max_ap_drop
    )


def _keep_worst(
    worst_first: list[str], loss: Callable[[Collection[str]], tuple[float, float]], limit: float
) -> list[Step]:
    """Steps from nothing kept until the loss is within the limit, or one block is left.

    The output error ranks the blocks: it is smooth, where a block's own loss of AP on few pictures
    is mostly chance.
    """
    steps: list[Step] = []
    for count in range(len(worst_first)):
        kept = tuple(worst_first[:count])
        steps.append(Step(kept, *loss(kept)))
        if steps[-1].ap_drop <= limit:
            break
    return steps


def save_picture(result: Sensitivity, path: Path) -> None:
    """Bars of each block's damage, kept ones in another colour, as PNG.

    Raises:
        MissingDependencyError: Without matplotlib.
        WriteError: If it cannot be written.
    """
    figure = new_figure(8, 1.2 + 0.32 * len(result.rows))
    axes = figure.subplots(1, 2, sharey=True)
    names = [row.block for row in result.rows]
    colours = ["#c44e52" if name in result.kept else "#4c72b0" for name in names]
    measures = (
        ([100 * row.error for row in result.rows], "output error, %"),
        ([row.ap_drop for row in result.rows], "AP lost, points"),
    )
    for axis, (values, label) in zip(axes, measures, strict=True):
        axis.barh(names, values, color=colours)
        axis.set_xlabel(label)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    kept = ", ".join(result.kept) or "none"
    figure.suptitle(f"each block quantized alone, {result.pictures} pictures; kept: {kept}")
    save_figure(figure, path)
