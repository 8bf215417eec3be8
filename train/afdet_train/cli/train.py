"""``trt-afdet train``: trains a checkpoint from a recipe."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

SUMMARY = "train a detector from a recipe"

EPILOG = """\
examples:
  trt-afdet train train/recipes/doom.yaml --out runs/doom
  trt-afdet train train/recipes/voc-step1.yaml data.train=VOCdevkit optim.lr=5e-4
  trt-afdet train train/recipes/doom.yaml --out runs/doom --resume
  torchrun --nproc-per-node 4 -m afdet_train train/recipes/coco-step1.yaml --out runs/coco
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "recipe", type=Path, metavar="RECIPE.yaml", help="model, data and settings of the run"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="recipe values, e.g. optim.lr=5e-4"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="output folder (default: runs/<recipe name>)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in --out"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse data with any fault (default: use the valid rest)",
    )
    parser.add_argument(
        "--backbone-weights", metavar="FILE", help="short for model.backbone.weights=FILE"
    )


def run(args: argparse.Namespace) -> int:
    # Importing torch takes seconds, so the recipe is checked first.
    from afdet_train.config import load_recipe

    overrides = list(args.overrides)
    if args.backbone_weights:
        overrides.append(f"model.backbone.weights={args.backbone_weights}")
    recipe = load_recipe(args.recipe, overrides)
    out = args.out or Path("runs") / args.recipe.stem

    from afdet_train.trainer import fit

    # Ctrl-C and SIGTERM both save, and so does SIGINT where a shell's "&" made Python ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        best = fit(recipe, out, resume=args.resume, strict=args.strict)
    except KeyboardInterrupt as stop:
        from trt_afdet.cli.stopping import exit_status

        print(f"stopped; continue with: trt-afdet train {args.recipe} --out {out} --resume")
        return exit_status(stop)
    metrics = "  ".join(f"{n.upper()} {v:.4f}" for n, v in best.items() if n != "epoch")
    print(f"checkpoint {out / 'best.safetensors'}  {metrics}".rstrip())
    return 0
