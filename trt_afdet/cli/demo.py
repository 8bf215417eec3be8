"""``trt-afdet demo``: the shipped detector on the shipped clip."""

from __future__ import annotations

import argparse
from pathlib import Path

from trt_afdet.assets import ASSETS

SUMMARY = "run the shipped detector on the shipped clip"

EPILOG = """\
example:
  trt-afdet demo --out out/demo

Leaves annotated.mp4, detections.jsonl and preview.jpg, and prints speed and accuracy.
"""

#: The clip is scored down to this confidence and drawn from the other one on.
_SCORE_FROM = 0.05
_DRAW_FROM = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="default: out/demo")
    parser.add_argument("--threads", type=int, help="CPU threads of the network")


def write_preview(video: Path, picture: Path, columns: int = 3, rows: int = 2) -> Path:
    """A contact sheet of a video's frames, evenly spread; returns its path."""
    import numpy as np

    from trt_afdet.media import open_inputs, write_picture

    with open_inputs(video) as source:
        total = source.total or columns * rows
        wanted = set(np.linspace(0, total - 1, columns * rows).round().astype(int).tolist())
        frames = [frame.image for frame in source if frame.index in wanted]
    frames += [np.zeros_like(frames[0])] * (columns * rows - len(frames))
    lines = [np.hstack(frames[i * columns : (i + 1) * columns]) for i in range(rows)]
    write_picture(picture, np.vstack(lines))
    return picture


def run(args: argparse.Namespace) -> int:
    from trt_afdet.assets import SHIPPED_MODEL
    from trt_afdet.cli import ui
    from trt_afdet.cli.detect import detect, print_result, report_failures
    from trt_afdet.datasets import open_dataset
    from trt_afdet.evaluation import evaluate_coco
    from trt_afdet.media import open_inputs
    from trt_afdet.runtime.detector import Detector

    truth = open_dataset(ASSETS / "clip.json")
    source = open_inputs(ASSETS / "clip.mp4")
    with Detector.load(SHIPPED_MODEL, conf=_SCORE_FROM, threads=args.threads) as detector:
        video, jsonl = args.out / "annotated.mp4", args.out / "detections.jsonl"
        result = detect(source, detector, out=video, jsonl=jsonl, keep=True, report_from=_DRAW_FROM)
    result.written.append(write_preview(video, args.out / "preview.jpg"))
    print_result(result, detector)
    score = evaluate_coco(truth, result.detections)
    figures = [["AP50", f"{score.ap50:.3f}"], ["AP", f"{score.ap:.3f}"]]
    ui.table("against the clip's ground truth", ["figure", "value"], figures)
    return report_failures(source)
