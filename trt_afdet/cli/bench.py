"""``trt-afdet bench``: how fast models run on this machine, side by side."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trt_afdet import __version__
from trt_afdet.assets import ASSETS
from trt_afdet.cli import ui
from trt_afdet.errors import InvalidValueError
from trt_afdet.runtime.times import STAGES, StageTimes, percentile
from trt_afdet.support.files import check_output, data_on_stdout, output_file, write_text
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    from trt_afdet.runtime.detector import Detector, Frame

SUMMARY = "measure latency and throughput of models side by side"

EPILOG = """\
examples:
  trt-afdet bench model.onnx model.fp16.onnx model.int8.onnx --batch 1,4
  trt-afdet bench model.onnx fp16.engine int8.engine --size 1920x1080 --json bench.json
  trt-afdet bench model.onnx --backend cpu,cuda --picture bench.png

All models take turns, one batch at a time, so that a busy moment of the machine hits all of them.
Latency is the wall time of one batch, frames in memory to detections, nothing else under way.
frames/s is the rate of such batches one after another; for an engine, with batches overlapping.
"bare" is the rate of an engine's network alone, replayed as a CUDA graph, and the runtime's share
of it. Stages are medians in milliseconds per batch; an engine's are measured one by one.
"""

#: Fewest batches of a model that make a percentile.
_LEAST_ROUNDS = 5
#: Distinct frames that are kept in memory.
_FRAMES_KEPT = 32
#: Batches that overlap in one measurement of an engine's throughput.
_PIPELINED = 8
#: Seconds of an engine's bare network in each of its measurements.
_BARE_SECONDS = 0.1
_PERCENTS = (50, 90, 95, 99)
_LABELS = ("model", "precision", "backend", "batch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", type=Path, help=".onnx or .engine")
    text = "what runs .onnx files: ONNX Runtime's execution providers, such as cpu,cuda"
    add("--backend", default="cpu", help=f"{text} (default: cpu)")
    add("--batch", default="1", help="frames per batch: 1,4,16 (default: 1)")
    add("--frames", type=int, default=100, help="frames per model and batch size (default: 100)")
    add("--source", help="picture, folder or video (default: the shipped clip)")
    add("--size", help="resize the frames first: 1920x1080")
    add("--threads", type=int, help="CPU threads of ONNX Runtime")
    add("--skip-missing", action="store_true", help="leave out models whose file is not there")
    add("--json", type=output_file, help="write all figures as JSON; - is standard output")
    add("--picture", type=output_file, help="write a picture of them (PNG)")


def run(args: argparse.Namespace) -> int:
    if args.frames < 1:
        raise InvalidValueError("--frames must be at least 1", got=args.frames)
    for path in filter(None, (args.json, args.picture)):
        check_output(path)
    batches = parse_batches(args.batch)
    frames = load_frames(args.source, parse_size(args.size))
    models = args.models
    if args.skip_missing:
        models = [path for path in models if path.is_file()]
        for path in args.models:
            if path not in models:
                ui.warn(f"there is no {path}")
    with ExitStack() as stack:
        contenders = open_contenders(stack, models, args.backend, args.threads)
        results = measure(contenders, frames, batches, args.frames)
    height, width = frames[0].shape[:2]
    with data_on_stdout(args.json, args.picture):
        ui.table(f"frames of {width}x{height}, milliseconds per batch", *latency_table(results))
        ui.table("milliseconds per batch and stage, p50", *stage_table(results))
        if args.json:
            write_text(args.json, json.dumps(report(results, frames, args), indent=2) + "\n")
            print(f"wrote {args.json}")
        if args.picture:
            draw(results, args.picture)
            print(f"wrote {args.picture}")
    return 0


class Contender(NamedTuple):
    """One model on one backend; its precision is "?" if the file does not tell."""

    name: str
    precision: str
    backend: str
    detector: Detector


@dataclass
class Result:
    """What one contender took at one batch size.

    Attributes:
        model, precision, backend, batch: The measured combination.
        latencies: Seconds of each batch.
        stages: Seconds per batch of each stage, each time it was measured.
        rates: Frames a second of overlapping batches, each time; empty if they do not overlap.
        bare: Frames a second of an engine's network alone, each time.
    """

    model: str
    precision: str
    backend: str
    batch: int
    latencies: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def label(self) -> list[str]:
        return [str(getattr(self, name)) for name in _LABELS]

    def latency_ms(self, share: float) -> float:
        return percentile(self.latencies, share) * 1e3

    def stage_ms(self) -> dict[str, float]:
        return {name: percentile(values, 0.5) * 1e3 for name, values in self.stages.items()}

    def frames_per_second(self) -> float:
        if self.rates:
            return percentile(self.rates, 0.5)
        return self.batch * len(self.latencies) / sum(self.latencies)

    def bare_frames_per_second(self) -> float | None:
        return percentile(self.bare, 0.5) if self.bare else None

    def as_dict(self) -> dict[str, Any]:
        bare = self.bare_frames_per_second()
        rate = self.frames_per_second()
        return {
            **{name: getattr(self, name) for name in _LABELS},
            "batches": len(self.latencies),
            "latency_ms": {f"p{percent}": self.latency_ms(percent / 100) for percent in _PERCENTS},
            "stages_ms": self.stage_ms(),
            "frames_per_second": rate,
            "bare_frames_per_second": bare,
            "share_of_bare": rate / bare if bare else None,
        }


def parse_batches(text: str) -> list[int]:
    """Batch sizes from a list with commas, ascending."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise InvalidValueError("--batch takes numbers such as 1,4,16", got=text)
    return sorted({int(word) for word in words})


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height from "1920x1080"."""
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InvalidValueError("--size takes WIDTHxHEIGHT, such as 1920x1080", got=text)
    return int(width), int(height)


def load_frames(source: str | None, size: tuple[int, int] | None) -> list[Frame]:
    """Frames spread over a source, or over the shipped clip, in memory."""
    import cv2
    import numpy as np

    from trt_afdet.media import open_inputs

    with open_inputs(source or ASSETS / "clip.mp4") as opened:
        step = max(1, (opened.total or 0) // _FRAMES_KEPT)
        spread = (frame.image for frame in opened if frame.index % step == 0)
        frames = list(islice(spread, _FRAMES_KEPT))
    if not frames:
        raise InvalidValueError("the source has no readable frame", got=source)
    if size is not None:
        frames = [np.asarray(cv2.resize(frame, size), np.uint8) for frame in frames]
    return frames


def open_contenders(
    stack: ExitStack, models: Sequence[Path], backends: str, threads: int | None
) -> list[Contender]:
    """Opens every model, .onnx files once for each backend; the stack closes them."""
    from trt_afdet.runtime.detector import Detector
    from trt_afdet.trt.sidecar import read

    names = [path.name for path in models]
    contenders = []
    for path in models:
        name = path.name if names.count(path.name) == 1 else str(path)
        if path.suffix.lower() == ".onnx":
            for backend, provider in providers(backends).items():
                detector = Detector.load(path, threads=threads, providers=[provider])
                stack.enter_context(detector)
                contenders.append(Contender(name, onnx_precision(path), backend, detector))
        else:
            detector = stack.enter_context(Detector.load(path))
            contenders.append(Contender(name, read(path).precision_asked, "TensorRT", detector))
    return contenders


def providers(text: str) -> dict[str, str]:
    """ONNX Runtime's execution providers by the names asked for, such as "cpu,cuda"."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing(error) from error
    names = onnxruntime.get_available_providers()
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in names}
    for word in map(str.strip, text.split(",")):
        if word.lower() not in known:
            hint = f"it has {', '.join(known)}"
            raise InvalidValueError("this ONNX Runtime has no such backend", got=word, hint=hint)
    return {word: known[word] for word in map(str.strip, text.lower().split(","))}


def onnx_precision(path: Path) -> str:
    """The precision of an ONNX file, by its operators and weights; "?" without the onnx package."""
    try:
        import onnx
    except ImportError:
        return "?"
    from trt_afdet.engine.onnx.model_file import read_model

    model = read_model(path)
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    return "fp16" if sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT] else "fp32"


def measure(
    contenders: Sequence[Contender], frames: Sequence[Frame], batches: Sequence[int], count: int
) -> list[Result]:
    """Measures every contender with at least ``count`` frames at every batch size that it takes."""
    results: list[Result] = []
    plan = []
    for batch in batches:
        pairs = [(c, Result(*c[:3], batch)) for c in contenders if _fits(c, batch)]
        results += [result for _, result in pairs]
        rounds = max(_LEAST_ROUNDS, -(-count // batch)) if pairs else -1
        plan += [(pairs, batch, turn) for turn in range(-1, rounds)]
    for pairs, batch, turn in ui.progress(plan, len(plan), "measuring"):
        # The first finds other caches, so the models take turns in being first.
        first = turn % len(pairs)
        for contender, result in pairs[first:] + pairs[:first]:
            start = max(turn, 0) * batch
            group = [frames[i % len(frames)] for i in range(start, start + batch)]
            if turn < 0:
                _warm_up(contender, group)
            else:
                _measure_once(contender, result, group)
    return results


def _fits(contender: Contender, batch: int) -> bool:
    backend = contender.detector.backend
    most = backend.max_batch
    if backend.batch_size not in (None, batch) or (most is not None and batch > most):
        takes = backend.batch_size or f"up to {most}"
        ui.warn(f"{contender.name} takes batches of {takes}, so {batch} is left out")
        return False
    return True


def _warm_up(contender: Contender, group: list[Frame]) -> None:
    from trt_afdet.runtime.runner import Runner

    backend = contender.detector.backend
    if isinstance(backend, Runner):
        height, width = (max(frame.shape[axis] for frame in group) for axis in (0, 1))
        backend.warm_up(height, width, [len(group)])
    for _ in range(2):
        contender.detector(group)


def _measure_once(contender: Contender, result: Result, group: list[Frame]) -> None:
    from trt_afdet.runtime.runner import Runner

    detector = contender.detector
    detector.times = StageTimes()
    start = time.perf_counter()
    detector(group)
    result.latencies.append(time.perf_counter() - start)
    backend = detector.backend
    if isinstance(backend, Runner):
        stages = backend.stage_seconds(group)
        start = time.perf_counter()
        for ticket in [backend.submit(group) for _ in range(_PIPELINED)]:
            ticket.detections()
        result.rates.append(_PIPELINED * len(group) / (time.perf_counter() - start))
        result.bare.append(backend.network_rate(len(group), _BARE_SECONDS))
    else:
        stages = {name: sum(values) for name, values in detector.times.seconds.items()}
    for name, seconds in stages.items():
        result.stages.setdefault(name, []).append(seconds)


Table = tuple[list[str], list[list[str]]]


def latency_table(results: Sequence[Result]) -> Table:
    """Columns and rows: percentiles and rates."""
    with_bare = any(result.bare for result in results)
    columns = [*_LABELS, "p50", "p95", "p99", "frames/s"]
    columns += ["bare", "share"] if with_bare else []
    rows = []
    for result in results:
        row = [*result.label, *(f"{result.latency_ms(s):.2f}" for s in (0.5, 0.95, 0.99))]
        row.append(f"{result.frames_per_second():.1f}")
        if with_bare:
            bare = result.bare_frames_per_second()
            row += [f"{bare:.1f}", f"{result.frames_per_second() / bare:.0%}"] if bare else ["", ""]
        rows.append(row)
    return columns, rows


def stage_names(results: Sequence[Result]) -> list[str]:
    """The stages that any model has, in the order a frame passes them."""
    return [name for name in STAGES if any(name in result.stages for result in results)]


def stage_table(results: Sequence[Result]) -> Table:
    """Columns and rows: the median of each stage."""
    names = stage_names(results)
    stages = [result.stage_ms() for result in results]
    cells = [[f"{ms[name]:.2f}" if name in ms else "" for name in names] for ms in stages]
    rows = [[*result.label, *row] for result, row in zip(results, cells, strict=True)]
    return [*_LABELS, *names], rows


def report(
    results: Sequence[Result], frames: Sequence[Frame], args: argparse.Namespace
) -> dict[str, Any]:
    """All figures, and the machine."""
    from trt_afdet.doctor import examine

    height, width = frames[0].shape[:2]
    return {
        "trt_afdet": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "found": [asdict(row) for row in examine()],
        },
        "source": args.source or "the shipped clip",
        "frame_size": [width, height],
        "threads": args.threads,
        "results": [result.as_dict() for result in results],
    }


def draw(results: Sequence[Result], path: Path) -> None:
    """Bars: frames a second, and the stages of a batch."""
    from trt_afdet.support.figures import new_figure, save_figure

    figure = new_figure(11, 1.6 + 0.45 * len(results))
    rates, stages = figure.subplots(1, 2)
    labels = [f"{r.model} ({r.precision}, {r.backend}) x{r.batch}" for r in results]
    places = list(range(len(results)))
    bare = [result.bare_frames_per_second() or 0.0 for result in results]
    if any(bare):
        rates.barh(places, bare, color="0.85", label="network alone")
    values = [result.frames_per_second() for result in results]
    bars = rates.barh(places, values, height=0.6, color="tab:green", label="whole runtime")
    rates.bar_label(bars, fmt="%.0f", padding=3)
    rates.set_yticks(places, labels)
    rates.set_xlabel("frames per second")
    rates.margins(x=0.15)
    left = [0.0] * len(results)
    for name in stage_names(results):
        widths = [result.stage_ms().get(name, 0.0) for result in results]
        stages.barh(places, widths, left=left, height=0.6, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    stages.set_yticks(places, [""] * len(results))
    stages.set_xlabel("milliseconds per batch, p50")
    for axes in (rates, stages):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        if any(bare) or axes is stages:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, fontsize="small")
    save_figure(figure, path)
