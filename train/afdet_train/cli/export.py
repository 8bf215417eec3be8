"""``trt-afdet export``: writes a checkpoint as the canonical model.onnx."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.support.files import check_output, data_on_stdout, is_file_target, output_file

if TYPE_CHECKING:
    from afdet_train.export import Parity

SUMMARY = "export a checkpoint to the canonical model.onnx"

EPILOG = """\
examples:
  trt-afdet export runs/doom
  trt-afdet export runs/doom/best.safetensors -o model.onnx --frames pictures/
  trt-afdet export runs/doom --batch 1 --nms-iou 0.6
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="a .safetensors file or the folder of a run"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=output_file,
        help="ONNX file (default: model.onnx beside the checkpoint)",
    )
    parser.add_argument(
        "--frames",
        type=Path,
        help="picture, folder or video to compare on (default: the shipped clip)",
    )
    parser.add_argument(
        "--num-frames", type=int, default=8, help="number of frames to compare (default: 8)"
    )
    parser.add_argument(
        "--batch", type=int, default=None, help="fix the batch size (default: dynamic)"
    )
    parser.add_argument(
        "--half-weights",
        action="store_true",
        help="store the weights in FP16: half the file, still computed in FP32",
    )
    parser.add_argument("--score-threshold", type=float, help="store this score threshold")
    parser.add_argument("--nms-iou", type=float, help="store this NMS IoU")
    parser.add_argument(
        "--max-detections", type=int, help="store this maximum number of detections"
    )


def run(args: argparse.Namespace) -> int:
    import trt_afdet
    from trt_afdet.errors import InvalidValueError
    from trt_afdet.media import open_inputs

    for option in ("num_frames", "batch"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise InvalidValueError(f"--{option.replace('_', '-')} must be at least 1", got=value)
    clip = Path(trt_afdet.__file__).parent / "assets" / "clip.mp4"
    source = args.frames or clip
    with open_inputs(source) as media:
        frames = [frame.image for frame in islice(media, args.num_frames)]

    from afdet_train.export import export_checkpoint

    out = args.out or (
        args.checkpoint / "model.onnx"
        if args.checkpoint.is_dir()
        else args.checkpoint.with_name("model.onnx")
    )
    changes: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("score_threshold", "nms_iou", "max_detections")
        if getattr(args, name) is not None
    }
    check_output(out)
    with data_on_stdout(out):
        parity = export_checkpoint(
            args.checkpoint,
            out,
            frames,
            batch=args.batch,
            half_weights=args.half_weights,
            spec_changes=changes,
        )
        _tell(out, parity, half=args.half_weights)
    return 0


def _tell(out: Path, parity: Parity, *, half: bool) -> None:
    """Prints the file and the result of the comparison."""
    from afdet_train.export import TOLERANCE

    name, difference = parity.worst
    size = f" {out.stat().st_size / 1e6:.1f} MB," if is_file_target(out) else ""
    equal = "equal to torch" if not half else "weights rounded to FP16, compared with torch"
    limit = "" if half else f", limit {TOLERANCE:.0e}"
    print(
        f"{out}:{size} {equal} on {parity.frames} frames "
        f"(worst tensor {name}: {difference:.1e} relative{limit})"
    )
