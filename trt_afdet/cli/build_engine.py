"""``trt-afdet build-engine`` and ``build-engine``: model.onnx to a TensorRT engine."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.support.files import check_output, data_on_stdout, is_file_target, output_file

if TYPE_CHECKING:
    from trt_afdet.engine.plan import BuildOptions

SUMMARY = "build a TensorRT engine from a model.onnx, and check that it is what was asked for"

EPILOG = """\
examples:
  trt-afdet build-engine model.onnx -o model.engine --precision fp16
  trt-afdet build-engine model.onnx -o model.engine --precision int8 --calib pictures/ \\
      --verify data/doom/annotations/val.json --batch 1,4,8
  trt-afdet build-engine model.onnx -o model.engine --dla-core 0 --gpu-fallback --dry-run
  trt-afdet build-engine model.onnx -o model.engine --flavour rtx --compute-capability 8.6,8.9

trtexec's words are taken too: --onnx=, --saveEngine=, --fp16, --int8, --best, --noTF32, --shapes=,
--minShapes=, --optShapes=, --maxShapes=, --workspace=MiB, --memPoolSize=workspace:MiB,
--timingCacheFile=, --noTimingCache, --builderOptimizationLevel=, --useDLACore=, --allowGPUFallback,
--versionCompatible, --hardwareCompatibilityLevel=, --stripWeights, --stronglyTyped,
--dynamicPlugins=, --tacticSources=-SOURCE, --verbose.
"""

_UNITS = {"": 2**20, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="an exported .onnx")
    parser.add_argument(
        "-o",
        "--output",
        "--saveEngine",
        type=output_file,
        metavar="FILE",
        help="the engine to write",
    )
    _add_precision(parser.add_argument_group("precision"))
    _add_network(parser.add_argument_group("network"))
    _add_builder(parser.add_argument_group("builder"))
    _add_other(parser)


def _add_precision(group: Any) -> None:
    add = group.add_argument
    add(
        "--precision",
        choices=("fp32", "fp16", "int8", "best"),
        help="fp16 by default; int8 has fp16 for the rest; best: whichever of the two is measured "
        "to be faster",
    )
    for name in ("fp16", "int8", "best"):
        add(f"--{name}", dest="flags", action="append_const", const=name, help=argparse.SUPPRESS)
    add("--io", choices=("float32", "float16"), help="type of input and heads (default: float32)")
    add("--keep", metavar="BLOCKS", help="blocks or nodes of higher precision: stem,head/reg")
    add("--calib", metavar="DATA", help="INT8 calibration pictures: folder, dataset or video")
    add("--calib-images", type=int, default=512, metavar="N", help="of them (default: 512)")
    add(
        "--calib-method",
        choices=("minmax", "percentile", "entropy"),
        help="how ranges are found (default: minmax)",
    )
    add(
        "--calib-cache",
        type=output_file,
        metavar="FILE",
        help="ranges (default: beside the engine)",
    )
    add(
        "--int8-mode",
        choices=("explicit", "implicit"),
        default="explicit",
        help="Q/DQ in the network, or TensorRT's own calibrator (8.x and 10.x)",
    )
    add(
        "--held-out",
        type=int,
        default=128,
        metavar="N",
        help="pictures on which each block's damage by INT8 is measured; 0: none (default: 128)",
    )
    add(
        "--max-ap-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="AP that INT8 may lose; blocks stay FP16 until it is less (default: 0.5)",
    )
    add("--picture", type=output_file, metavar="PNG", help="draw what INT8 does to each block")
    add("--no-tf32", "--noTF32", action="store_true", help="FP32 layers compute in full FP32")
    add("--verify", metavar="DATA", help="compare model and engine on these: dataset or folder")
    add("--verify-images", type=int, metavar="N", help="of them (default: all)")
    add(
        "--verify-limits",
        metavar="NAME=VALUE,...",
        help="of the comparison: output_error, matched, ap_drop (defaults go by precision)",
    )
    add("--allow-fallback", action="store_true", help="take an engine of larger types than asked")


def _add_network(group: Any) -> None:
    add = group.add_argument
    add("--nms", choices=("plugin", "onnx", "none"), default="none", help="default: none")
    add("--plugin", "--dynamicPlugins", "--plugins", type=Path, metavar="FILE", help="its library")
    add("--batch", metavar="MIN,OPT,MAX", help="or one number (default: 1)")
    for name in ("shapes", "minShapes", "optShapes", "maxShapes"):
        add(f"--{name}", help=argparse.SUPPRESS)


def _add_builder(group: Any) -> None:
    add = group.add_argument
    add("--flavour", choices=("auto", "tensorrt", "rtx"), default="auto", help="which TensorRT")
    add(
        "--compute-capability",
        metavar="LIST",
        help="for these GPUs, TensorRT-RTX only: 8.6,8.9 (default: this one's, else from 8.0 on)",
    )
    add("--workspace", metavar="SIZE", help="MiB, or 2G, 512M (default: half of what is free)")
    add("--memPoolSize", help=argparse.SUPPRESS)
    add(
        "--timing-cache",
        "--timingCacheFile",
        type=output_file,
        metavar="FILE",
        help="default: beside the engine",
    )
    add("--no-timing-cache", "--noTimingCache", action="store_true", help="measure all anew")
    add(
        "--optimization-level", "--builderOptimizationLevel", type=int, metavar="0-5", help="effort"
    )
    add(
        "--version-compatible",
        "--versionCompatible",
        "--vc",
        action="store_true",
        help="for newer versions of TensorRT too",
    )
    add(
        "--hardware-compatible",
        "--hardwareCompatibilityLevel",
        metavar="LEVEL",
        default="none",
        help="ampere_plus or same_compute_capability: for other GPUs too",
    )
    add("--strip-weights", "--stripWeights", action="store_true", help="leave the weights out")
    add("--dla-core", "--useDLACore", type=int, metavar="N", help="run on this DLA core")
    add(
        "--gpu-fallback",
        "--allowGPUFallback",
        action="store_true",
        help="what the DLA cannot run runs on the GPU",
    )
    add("--without-tactics", metavar="LIST", help="sources of kernels to leave out: CUDNN,CUBLAS")
    add("--tacticSources", help=argparse.SUPPRESS)


def _add_other(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dry-run", action="store_true", help="convert, parse, check, show the plan; no build")
    add("--force", action="store_true", help="replace a file that is no engine of trt-afdet")
    add("-v", "--verbose", action="store_true", help="show what TensorRT says")
    add("--onnx", type=Path, dest="onnx", help=argparse.SUPPRESS)
    # What trtexec needs to be told and this command does anyway.
    for name in ("stronglyTyped", "buildOnly", "skipInference", "explicitBatch"):
        add(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    for name in ("profilingVerbosity", "precisionConstraints"):
        add(f"--{name}", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from trt_afdet.engine.builder import StillBuildingError
    from trt_afdet.engine.make import BuildResult, make_engine

    if args.verbose:
        _show_log()
    options = options_of(args)
    with data_on_stdout(args.picture), Display(verbose=args.verbose or args.dry_run) as display:
        try:
            sidecar = make_engine(options, display, flavour=args.flavour)
        except StillBuildingError as stop:
            from trt_afdet.cli.stopping import exit_status

            display.close()
            cause = stop.__context__
            _leave(exit_status(cause if isinstance(cause, KeyboardInterrupt) else stop))
        if sidecar is not None:
            print(BuildResult(options.output, sidecar))
    return 0


def _leave(status: int) -> None:
    """Ends the process around a build that cannot be stopped; nothing of it is on disk."""
    import os

    print("trt-afdet: error: stopped", file=sys.stderr, flush=True)
    os._exit(status)


def _show_log() -> None:
    import logging

    log = logging.getLogger("trt_afdet.tensorrt")
    log.setLevel(logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("TensorRT: %(message)s"))
    log.addHandler(handler)


def options_of(args: argparse.Namespace) -> BuildOptions:
    """What the command line asks for.

    Raises:
        InvalidValueError: If two of its words contradict each other, or one cannot be read.
    """
    from trt_afdet.engine.plan import BuildOptions
    from trt_afdet.errors import InvalidValueError

    onnx = _either(args.model, args.onnx, "MODEL", "--onnx")
    if onnx is None:
        raise InvalidValueError("no model is given", hint="trt-afdet build-engine MODEL -o ENGINE")
    if args.output is None:
        raise InvalidValueError("no engine is named", hint="-o model.engine")
    for path in (args.output, args.picture):
        if path is not None:
            check_output(path)
    if not is_file_target(args.output):
        raise InvalidValueError(
            "an engine needs a file, with its sidecar beside it", got=args.output
        )
    batch, image = _shapes(args)
    without = _words(args.without_tactics) + _tactics(args.tacticSources)
    return BuildOptions(
        onnx=onnx,
        output=args.output,
        precision=_precision(args),
        io=args.io or "float32",
        nms=args.nms,
        batch=batch,
        image=image,
        keep=_words(args.keep),
        calib=args.calib,
        calib_images=args.calib_images,
        calib_method=args.calib_method,
        calib_cache=args.calib_cache,
        int8_mode=args.int8_mode,
        held_out=args.held_out,
        max_ap_drop=args.max_ap_drop,
        picture=args.picture,
        verify=args.verify,
        verify_images=args.verify_images,
        verify_limits=_limits(args.verify_limits),
        tf32=not args.no_tf32,
        workspace=_workspace(args),
        timing_cache=_timing_cache(args),
        use_timing_cache=not args.no_timing_cache,
        optimization_level=args.optimization_level,
        version_compatible=args.version_compatible,
        hardware_compatible=_compatibility(args.hardware_compatible),
        strip_weights=args.strip_weights,
        dla_core=args.dla_core,
        gpu_fallback=args.gpu_fallback,
        allow_fallback=args.allow_fallback,
        compute_capability=tuple(map(_capability, _words(args.compute_capability))),
        plugin=args.plugin,
        without_tactics=without,
        force=args.force,
        dry_run=args.dry_run,
    )


def _either(first: Any, second: Any, name: str, alias: str) -> Any:
    from trt_afdet.errors import InvalidValueError

    if first is not None and second is not None and first != second:
        raise InvalidValueError(f"{name} and {alias} contradict", got=f"{first} and {second}")
    return second if first is None else first


def _precision(args: argparse.Namespace) -> str:
    """Of trtexec's flags the boldest: --fp16 --int8 is INT8 with FP16 for the rest."""
    flags = args.flags or []
    bold = next((name for name in ("best", "int8", "fp16") if name in flags), None)
    return _either(args.precision, bold, "--precision", f"--{bold}") or "fp16"


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _shapes(args: argparse.Namespace) -> tuple[tuple[int, int, int], tuple[int, ...] | None]:
    """The batches, and the rest of a picture's shape where trtexec's words tell it."""
    from trt_afdet.errors import InvalidValueError

    given = [args.minShapes, args.optShapes, args.maxShapes]
    if args.shapes is not None:
        if any(given):
            raise InvalidValueError("--shapes and --minShapes.. contradict", got=args.shapes)
        given = [args.shapes] * 3
    if not any(given):
        return _batch(args.batch), None
    if args.batch is not None:
        raise InvalidValueError("--batch and trtexec's shapes contradict", got=args.batch)
    known = [_shape(text) for text in given if text]
    if len({shape[1:] for shape in known}) > 1:
        raise InvalidValueError(
            "only the batch of a shape can vary", got=" ".join(filter(None, given))
        )
    # As trtexec does: what is not given is as what is.
    least = _shape(given[0])[0] if given[0] else known[0][0]
    most = _shape(given[2])[0] if given[2] else known[-1][0]
    best = _shape(given[1])[0] if given[1] else most
    return (least, best, most), known[0][1:]


def _batch(text: str | None) -> tuple[int, int, int]:
    from trt_afdet.errors import InvalidValueError

    words = _words("1" if text is None else text)
    # More digits than this no batch has, and Python would refuse to read some numbers of them.
    sizes = [int(word) for word in words if re.fullmatch(r"-?\d{1,18}", word, re.ASCII)]
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3 or len(words) not in (1, 3):
        raise InvalidValueError("--batch takes one number or MIN,OPT,MAX", got=text)
    return sizes[0], sizes[1], sizes[2]


def _shape(text: str) -> tuple[int, ...]:
    """(4, 3, 512, 512) of "images:4x3x512x512"."""
    from trt_afdet.errors import InvalidValueError

    found = re.fullmatch(r"'?images'?:(\d{1,9}(?:x\d{1,9}){3})", text, re.ASCII)
    if found is None:
        raise InvalidValueError("a shape is written images:Nx3xHxW", got=text)
    return tuple(map(int, found.group(1).split("x")))


def _limits(text: str | None) -> tuple[tuple[str, float], ...]:
    """(("matched", 0.98),) of "matched=0.98"."""
    from trt_afdet.errors import InvalidValueError

    limits = []
    for word in _words(text):
        name, _, value = word.partition("=")
        try:
            limits.append((name.strip(), float(value)))
        except ValueError:
            raise InvalidValueError("a limit is written NAME=VALUE", got=word) from None
    return tuple(limits)


def _timing_cache(args: argparse.Namespace) -> Path | None:
    from trt_afdet.errors import InvalidValueError

    path: Path | None = args.timing_cache
    if path is not None and args.no_timing_cache:
        raise InvalidValueError("--timing-cache and --no-timing-cache contradict", got=path)
    return path


def _workspace(args: argparse.Namespace) -> int | None:
    """Bytes of "--workspace 2G" or of "--memPoolSize=workspace:2048"."""
    from trt_afdet.errors import InvalidValueError

    text = args.workspace
    for pool in _words(args.memPoolSize):
        name, _, size = pool.partition(":")
        if name != "workspace":
            raise InvalidValueError("only the pool workspace can be set", got=pool)
        text = _either(text, size, "--workspace", "--memPoolSize")
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([BKMG]?)(?:iB)?", text.strip(), re.I | re.A)
    if found is None:
        raise InvalidValueError("a size is a number of MiB, or one such as 512M or 2G", got=text)
    return round(float(found.group(1)) * _UNITS[found.group(2).upper()])


def _capability(text: str) -> str:
    """ "8.9" of "8.9", "89", "sm89" or "SM_89"."""
    digits = re.sub(r"^sm_?", "", text.lower())
    return f"{digits[:-1]}.{digits[-1]}" if re.fullmatch(r"\d{2,3}", digits) else digits


def _compatibility(text: str) -> str:
    """Also as trtexec writes it: "ampere+", "sameComputeCapability"."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()
    return snake.replace("ampere+", "ampere_plus")


def _tactics(text: str | None) -> tuple[str, ...]:
    """What "-CUDNN,-CUBLAS" leaves out."""
    from trt_afdet.errors import InvalidValueError

    words = _words(text)
    if not all(word.startswith("-") for word in words):
        raise InvalidValueError("tactic sources can only be left out here: -CUDNN", got=text)
    return tuple(word[1:] for word in words)


class Display:
    """Reports on stdout, progress on stderr; see :class:`trt_afdet.engine.builder.Listener`.

    Args:
        verbose: Whether to print the plan.
    """

    def __init__(self, verbose: bool = False) -> None:
        self._verbose = verbose
        self._bar: Any = None
        self._task: Any = None
        self._next_line = 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar off the screen."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()

    def warn(self, text: str) -> None:
        from trt_afdet.cli import ui

        self.close()
        ui.warn(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from trt_afdet.cli import ui

        if title != "plan" or self._verbose:
            self.close()
            ui.table(title, columns, rows)

    def progress(self, items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        from trt_afdet.cli import ui

        return ui.progress(items, total, description)

    def building(self, state: Any) -> None:
        """A bar with phase and time on a terminal, a line every ten seconds elsewhere."""
        if state.ended:
            self.close()
            return
        if self._bar is None and not self._open():
            self._line(state)
            return
        done = state.fraction
        self._bar.update(self._task, total=None if done is None else 1, completed=done or 0)
        self._bar.update(self._task, description=state.doing)

    def _open(self) -> bool:
        if not sys.stderr.isatty():
            return False
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:
            return False
        columns = (
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        self._bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self._task = self._bar.add_task("building", total=None)
        self._bar.start()
        return True

    def _line(self, state: Any) -> None:
        from trt_afdet.cli.ui import LINE_EVERY

        if state.seconds < max(self._next_line, LINE_EVERY):
            return
        self._next_line = state.seconds + LINE_EVERY
        done = "" if state.fraction is None else f" {state.fraction:.0%},"
        print(f"building:{done} {state.seconds:.0f} s, {state.doing}", file=sys.stderr)


def main() -> int:
    """The console script ``build-engine``."""
    from trt_afdet.cli import main as command_line

    return command_line(["build-engine", *sys.argv[1:]])
