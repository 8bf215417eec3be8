"""``trt-afdet eval``: how good a model is on a dataset."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.cli import ui
from trt_afdet.errors import InvalidValueError
from trt_afdet.support.files import write_text
from trt_afdet.support.packages import missing

if TYPE_CHECKING:
    from trt_afdet.datasets import Dataset
    from trt_afdet.detections import Detections
    from trt_afdet.evaluation import CocoResult

SUMMARY = "measure AP of a model file or a checkpoint on a dataset"

EPILOG = """\
examples:
  trt-afdet eval model.onnx data/doom --split test --out out/eval
  trt-afdet eval runs/doom VOCdevkit/VOC2007 --split test --voc
  trt-afdet eval model.onnx data/street --merge vehicle=car,bus --only 'night_*'

A checkpoint runs through the same code as an ONNX file: only the network's forward pass differs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help=".onnx, .safetensors or a run's folder")
    add("data", metavar="DATA", help="COCO, VOC or YOLO: a folder or its file")
    add("--split", help="such as val or test, where the folder holds several")
    add("--conf", type=float, default=0.01, help="lowest confidence to count (default: 0.01)")
    add("--iou", type=float, help="NMS IoU (default: the model's)")
    add("--max-det", type=int, help="detections per picture (default: the model's)")
    add("--batch", type=int, default=4, help="pictures per step (default: 4)")
    add("--threads", type=int, help="CPU threads of the network")
    add("--limit", type=int, help="use this many pictures, evenly spread")
    add("--only", metavar="PATTERN", help="use pictures whose name matches, such as 'coco_*'")
    merge = "score these classes of the data as one, such as vehicle=car,bus; repeatable"
    add("--merge", action="append", type=_merged, default=[], metavar="NEW=OLD,OLD", help=merge)
    add("--strict", action="store_true", help="refuse data with any fault, do not use the rest")
    add("--voc", action="store_true", help="also print Pascal VOC's AP50")
    add("--out", type=Path, help="folder for metrics.json, pr.png and confusion.png")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.datasets import open_dataset
    from trt_afdet.evaluation import evaluate_coco, evaluate_voc, predict

    for option in ("batch", "limit"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InvalidValueError(f"--{option} must be at least 1", got=value)
    if args.out and args.out.exists() and not args.out.is_dir():
        raise InvalidValueError("--out must be a folder", got=args.out)
    detector = _open_model(args)
    truth = open_dataset(
        args.data,
        args.split,
        model=detector.spec.class_names,
        merge=dict(args.merge),
        decode=True,
        progress=ui.progress,
        strict=args.strict,
    )
    for line in truth.report.lines():
        ui.warn(f"{truth.name}: {line}")
    if args.only:
        truth = truth.select(args.only)
    truth.check_labels()
    if args.limit:
        truth = truth.head(args.limit)
    found = predict(truth, detector, batch=args.batch, progress=ui.progress)
    result = evaluate_coco(truth, found)
    extra: dict[str, float] = {}
    if args.voc:
        voc = evaluate_voc(truth, found)
        extra = {"voc07_ap50": voc.map_11, "voc_ap50": voc.map_continuous}
    _print(result, extra)
    if args.out:
        _write(args.out, truth, found, result, extra)
    return 0


def _merged(text: str) -> tuple[str, list[str]]:
    new, _, old = text.partition("=")
    members = [name.strip() for name in old.split(",") if name.strip()]
    if not new.strip() or not members:
        raise argparse.ArgumentTypeError(f"reads NEW=OLD,OLD (got {text})")
    return new.strip(), members


def _open_model(args: argparse.Namespace) -> Any:
    """The detector of a model file, or of a checkpoint if the training package is installed."""
    options = {name: getattr(args, name) for name in ("conf", "iou", "threads")}
    options["max_detections"] = args.max_det
    if args.model.is_dir() or args.model.suffix == ".safetensors":
        for point in entry_points(group="trt_afdet.detectors", name="checkpoint"):
            try:
                load = point.load()
            except ImportError as error:
                raise missing(error, extra="train") from error
            return load(args.model, **options)
    from trt_afdet.runtime.detector import Detector

    return Detector.load(args.model, **options)


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"


def _print(result: CocoResult, extra: dict[str, float]) -> None:
    rows = [[c.name, str(c.truths), _percent(c.ap), _percent(c.ap50)] for c in result.classes]
    ui.table(f"{result.images} pictures", ["class", "objects", "AP", "AP50"], rows)
    figures = {**result.metrics(), **extra}
    ui.table("all classes", ["figure", "%"], [[n, _percent(v)] for n, v in figures.items()])


def _write(
    out: Path, truth: Dataset, found: list[Detections], result: CocoResult, extra: dict[str, float]
) -> None:
    from trt_afdet.evaluation import confusion_matrix
    from trt_afdet.evaluation.plots import plot_confusion, plot_precision_recall

    plot_precision_recall(result, out / "pr.png")
    plot_confusion(confusion_matrix(truth, found), truth.class_names, out / "confusion.png")
    known = {**result.metrics(), **extra}
    figures: dict[str, Any] = {n: None if value != value else value for n, value in known.items()}
    figures["images"] = result.images
    figures["classes"] = {
        c.name: {"objects": c.truths, "ap": c.ap, "ap50": c.ap50} if c.truths else {"objects": 0}
        for c in result.classes
    }
    write_text(out / "metrics.json", json.dumps(figures, indent=2) + "\n")
    print(f"wrote {out}/metrics.json, pr.png, confusion.png")
