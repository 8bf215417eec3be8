"""``trt-afdet data doom`` films a dataset. Other ``data`` commands work without this package."""

from __future__ import annotations

import argparse
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any


def add_kinds(kinds: Any) -> None:
    """Adds ``doom`` and its options to the kinds of ``trt-afdet data``."""
    doom = kinds.add_parser(
        "doom",
        help="film Freedoom with ViZDoom, with exact boxes",
        description="Film Freedoom's maps with ViZDoom and write a COCO dataset. Splits are by "
        "map. The same seed gives the same bytes with any number of workers.",
        epilog="example: trt-afdet data doom data/doom --split train --frames 7000 --seed 1 "
        "--workers 4",
    )
    doom.add_argument("out", metavar="OUT", type=Path, help="folder to write to")
    doom.add_argument("--split", required=True, metavar="NAME", help="train, val or test")
    doom.add_argument("--frames", required=True, type=int, metavar="N", help="pictures to take")
    doom.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    doom.add_argument("--workers", type=int, default=1, metavar="W", help="processes (default: 1)")
    doom.add_argument("--resolution", default="800x600", metavar="WxH", help="default: 800x600")
    doom.add_argument(
        "--video",
        type=Path,
        metavar="CLIP.mp4",
        help="write one continuous clip here instead, with its boxes in CLIP.json",
    )
    doom.add_argument(
        "--video-scale",
        type=float,
        default=1.0,
        metavar="R",
        help="scale the clip's resolution, for a smaller file (0.1 to 1, default: 1)",
    )
    doom.add_argument("--force", action="store_true", help="replace existing files")
    doom.set_defaults(work=run)


def run(args: argparse.Namespace) -> int:
    """Film the dataset or clip that `args` describes; return the exit status."""
    return _clip(args) if args.video is not None else _dataset(args)


def _with_progress(title: str, total: int, work: Any) -> Any:
    """Run `work(on_progress)` under a progress bar that counts frames."""
    from trt_afdet.cli import ui

    # The bar counts an item when the caller asks for the next one.
    bar = ui.progress(range(total + 1), total, title)
    next(bar)
    return work(lambda count: deque(islice(bar, count), maxlen=0))


def _dataset(args: argparse.Namespace) -> int:
    from afdet_train.doom import card, dataset

    coco = _with_progress(
        f"filming {args.split}",
        args.frames,
        lambda on_progress: dataset.film_dataset(
            args.out,
            args.split,
            args.frames,
            args.seed,
            workers=args.workers,
            resolution=args.resolution,
            force=args.force,
            on_progress=on_progress,
        ),
    )
    picture = card.write_card(args.out, args.split, coco)
    print(
        f"{len(coco['images'])} frames, {len(coco['annotations'])} objects: "
        f"{dataset.annotations_path(args.out, args.split)}\ncard: {picture}"
    )
    return 0


def _clip(args: argparse.Namespace) -> int:
    from afdet_train.doom import clip

    truth = _with_progress(
        f"filming {args.video.name}",
        clip.work_units(args.frames),
        lambda on_progress: clip.film_clip(
            args.video,
            args.split,
            args.frames,
            args.seed,
            resolution=args.resolution,
            scale=args.video_scale,
            force=args.force,
            on_progress=on_progress,
        ),
    )
    print(f"{len(truth['images'])} frames, {len(truth['annotations'])} objects: {args.video}")
    return 0
