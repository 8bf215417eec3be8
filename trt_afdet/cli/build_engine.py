"""``trt-afdet build-engine`` and ``build-engine``: model.onnx to a TensorRT engine."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.cli import ui
from trt_afdet.cli.stopping import exit_status
from trt_afdet.errors import InvalidValueError
from trt_afdet.support.files import check_output, data_on_stdout, is_file_target, output_file

if TYPE_CHECKING:
    from trt_afdet.engine.options import BuildOptions, Option

SUMMARY = "build a TensorRT engine from a model.onnx and check its precision"

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
    from trt_afdet.engine.options import options

    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", nargs="?", type=Path, metavar="MODEL", help="an exported .onnx")
    names = ("-o", "--output", "--saveEngine")
    add(*names, type=output_file, metavar="FILE", help="the engine to write")
    groups: dict[str, Any] = {"run": parser}
    for option in options():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], option)
    flavours = ("auto", "tensorrt", "rtx")
    add("--flavour", choices=flavours, default="auto", help="which TensorRT")
    add("-v", "--verbose", action="store_true", help="show what TensorRT says")
    # trtexec's own words, where they are more than another name.
    for name in ("fp16", "int8", "best"):
        add(f"--{name}", dest="flags", action="append_const", const=name, help=argparse.SUPPRESS)
    for name in ("shapes", "minShapes", "optShapes", "maxShapes", "memPoolSize", "tacticSources"):
        add(f"--{name}", help=argparse.SUPPRESS)
    add("--onnx", type=Path, dest="onnx", help=argparse.SUPPRESS)
    # This command always does these.
    for name in ("stronglyTyped", "buildOnly", "skipInference", "explicitBatch"):
        add(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    for name in ("profilingVerbosity", "precisionConstraints"):
        add(f"--{name}", help=argparse.SUPPRESS)


def _add(parser: Any, option: Option) -> None:
    """An option as the table describes it; without it on the command line, args hold None."""
    more: dict[str, Any] = {"dest": option.name, "help": option.help_line, "default": None}
    if option.is_switch:
        more |= {"action": "store_const", "const": not option.default}
    else:
        more |= {"metavar": option.metavar, "choices": option.choices or None}
        more["type"] = _TYPES.get(option.name, type(option.default))
        if option.default is None or isinstance(option.default, tuple):
            more["type"] = _TYPES.get(option.name, str)
    parser.add_argument(*option.flags, **more)


#: How the text of an option is read where its default does not say it.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("calib_cache", "picture", "timing_cache"), output_file),
    **dict.fromkeys(("verify_images", "optimization_level", "dla_core"), int),
    "plugin": Path,
}


def run(args: argparse.Namespace) -> int:
    from trt_afdet.engine.builder import StillBuildingError
    from trt_afdet.engine.make import BuildResult, make_engine

    if args.verbose:
        log = logging.getLogger("trt_afdet.tensorrt")
        log.setLevel(logging.DEBUG)
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("TensorRT: %(message)s"))
        log.addHandler(handler)
    options = options_of(args)
    with data_on_stdout(args.picture), Display(verbose=args.verbose or args.dry_run) as display:
        try:
            sidecar = make_engine(options, display, flavour=args.flavour)
        except StillBuildingError as stop:
            display.close()
            cause = stop.__context__
            # The build cannot be stopped; nothing of it is on disk.
            print("trt-afdet: error: stopped", file=sys.stderr, flush=True)
            os._exit(exit_status(cause if isinstance(cause, KeyboardInterrupt) else stop))
        if sidecar is not None:
            print(BuildResult(options.output, sidecar))
    return 0


def options_of(args: argparse.Namespace) -> BuildOptions:
    """The options of a command line; an error if its words contradict each other."""
    from trt_afdet.engine.options import BuildOptions, options

    onnx = _either(args.model, args.onnx, "MODEL", "--onnx")
    if onnx is None:
        raise InvalidValueError("no model is given", hint="trt-afdet build-engine MODEL -o ENGINE")
    if args.output is None:
        raise InvalidValueError("no engine is named", hint="-o model.engine")
    for path in filter(None, (args.output, args.picture)):
        check_output(path)
    if not is_file_target(args.output):
        what = "an engine needs a file, with its sidecar beside it"
        raise InvalidValueError(what, got=args.output)
    if args.timing_cache is not None and args.use_timing_cache is False:
        what = "--timing-cache and --no-timing-cache contradict"
        raise InvalidValueError(what, got=args.timing_cache)
    batch, image = _shapes(args)
    read: dict[str, Any] = {
        "precision": _precision(args),
        "batch": batch,
        "keep": _words(args.keep),
        "verify_limits": _limits(args.verify_limits),
        "workspace": _workspace(args),
        "hardware_compatible": _compatibility(args.hardware_compatible),
        "compute_capability": tuple(map(_capability, _words(args.compute_capability))),
        "without_tactics": _words(args.without_tactics) + _tactics(args.tacticSources),
    }
    rest = {option.name: getattr(args, option.name) for option in options()}
    read = {name: value for name, value in rest.items() if value is not None} | read
    return BuildOptions(onnx=onnx, output=args.output, image=image, **read)


def _either(first: Any, second: Any, name: str, alias: str) -> Any:
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
        got = " ".join(filter(None, given))
        raise InvalidValueError("only the batch of a shape can vary", got=got)
    # As in trtexec, missing shapes equal the given ones.
    least = _shape(given[0])[0] if given[0] else known[0][0]
    most = _shape(given[2])[0] if given[2] else known[-1][0]
    best = _shape(given[1])[0] if given[1] else most
    return (least, best, most), known[0][1:]


def _batch(text: str | None) -> tuple[int, int, int]:
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
    found = re.fullmatch(r"'?images'?:(\d{1,9}(?:x\d{1,9}){3})", text, re.ASCII)
    if found is None:
        raise InvalidValueError("a shape is written images:Nx3xHxW", got=text)
    return tuple(map(int, found.group(1).split("x")))


def _limits(text: str | None) -> tuple[tuple[str, float], ...]:
    """(("matched", 0.98),) of "matched=0.98"."""
    limits = []
    for word in _words(text):
        name, _, value = word.partition("=")
        try:
            limits.append((name.strip(), float(value)))
        except ValueError:
            raise InvalidValueError("a limit is written NAME=VALUE", got=word) from None
    return tuple(limits)


def _workspace(args: argparse.Namespace) -> int | None:
    """Bytes of "--workspace 2G" or of "--memPoolSize=workspace:2048"."""
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


def _compatibility(text: str | None) -> str:
    """Also as trtexec writes it: "ampere+", "sameComputeCapability"."""
    if text is None:
        return "none"
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()
    return snake.replace("ampere+", "ampere_plus")


def _tactics(text: str | None) -> tuple[str, ...]:
    """What "-CUDNN,-CUBLAS" leaves out."""
    words = _words(text)
    if not all(word.startswith("-") for word in words):
        raise InvalidValueError("tactic sources can only be left out here: -CUDNN", got=text)
    return tuple(word[1:] for word in words)


class Display:
    """Reports on stdout, progress on stderr; see :class:`trt_afdet.engine.builder.Listener`."""

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
        self.close()
        ui.warn(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if title != "plan" or self._verbose:
            self.close()
            ui.table(title, columns, rows)

    def progress(self, items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
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
            from rich.progress import BarColumn, Progress, TimeElapsedColumn
        except ImportError:
            return False
        share, doing = "{task.percentage:>3.0f}%", "{task.description}"
        columns = (BarColumn(), share, TimeElapsedColumn(), doing)
        self._bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self._task = self._bar.add_task("building", total=None)
        self._bar.start()
        return True

    def _line(self, state: Any) -> None:
        if state.seconds < max(self._next_line, ui.LINE_EVERY):
            return
        self._next_line = state.seconds + ui.LINE_EVERY
        done = "" if state.fraction is None else f" {state.fraction:.0%},"
        print(f"building:{done} {state.seconds:.0f} s, {state.doing}", file=sys.stderr)


def main() -> int:
    """The console script ``build-engine``."""
    from trt_afdet.cli import main as command_line

    return command_line(["build-engine", *sys.argv[1:]])
