"""The options of a build: the one place of their names, defaults, choices and help.

The command line is made from this table, and the tables of docs/build-engine.md are tested against
it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.interface import NMS_FORMS
from trt_afdet.trt.sidecar import COMPATIBILITIES, PRECISIONS

#: How INT8 gets its ranges: Q/DQ in the network, or TensorRT's own calibrator.
INT8_MODES = ("explicit", "implicit")

#: How a range is found from the values of a tensor.
CALIBRATION_METHODS = ("entropy", "minmax", "percentile")

#: Types of the input and the heads.
IO_TYPES = ("float32", "float16")

#: Limits of the verification; see :class:`trt_afdet.engine.verify.Limits`.
LIMIT_NAMES = ("output_error", "matched", "ap_drop")

CALIBRATION_IMAGES = 512
HELD_OUT = 128
MAX_AP_DROP = 0.5

_LEVELS = range(6)

#: What TensorRT's dimensions and sizes hold.
_LARGEST_BATCH = 2**15
_LARGEST_SIZE = 2**50


@dataclass(frozen=True)
class Option:
    """A field of :class:`BuildOptions` on the command line and in the docs.

    Attributes:
        name: The field.
        default: Its value where nothing is said. A bool is a switch to its opposite: ``--no-tf32``.
        group: Heading in ``--help``.
        help: Without the default.
        shown: The default in words, where the value does not say it.
        metavar: Of its value; None for a switch.
        choices: All values, if they are few.
        aliases: trtexec's words for it.
        again: Whether a rebuild needs it: where it differs from the default,
            or ("int8") always with INT8.
    """

    name: str
    default: Any
    group: str
    help: str
    shown: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    again: bool | str = False

    @property
    def flags(self) -> tuple[str, ...]:
        """``--calib-images`` and its aliases."""
        name = self.name.removeprefix("use_").replace("_", "-")
        return (f"--no-{name}" if self.default is True else f"--{name}", *self.aliases)

    @property
    def is_switch(self) -> bool:
        return isinstance(self.default, bool)

    @property
    def help_line(self) -> str:
        """The help with the default behind it."""
        shown = self.shown
        if shown is None and self.default not in (None, (), True, False):
            shown = str(self.default)
        return self.help if shown is None else f"{self.help} (default: {shown})"


def _option(default: Any, group: str, help: str, **more: Any) -> Any:
    option = {"group": group, "help": help, **more}
    return dataclasses.field(default=default, metadata={"option": option})


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build: ``onnx`` is the exported model, ``output`` the engine to write.

    ``trt-afdet build-engine --help`` and docs/build-engine.md explain every field. ``batch`` holds
    the smallest, best and largest batch, ``workspace`` bytes, ``verify_limits`` pairs of a name of
    :data:`LIMIT_NAMES` and a number.

    Raises:
        InvalidValueError: If a value is out of range, or two do not go together.
    """

    onnx: Path
    output: Path
    #: Channels, height and width that the input is meant to have; the model's by default.
    image: tuple[int, ...] | None = None

    # fmt: off
    precision: str = _option(
        "fp16", "precision",
        "int8 uses fp16 for the rest; best builds both and keeps the faster one",
        choices=(*PRECISIONS, "best"))
    io: str = _option(
        "float32", "precision", "type of input and heads", choices=IO_TYPES, again=True)
    keep: tuple[str, ...] = _option(
        (), "precision", "blocks or nodes that keep a higher precision: stem,head/reg",
        metavar="BLOCKS", again=True)
    calib: str | None = _option(
        None, "precision", "INT8 calibration pictures: folder, dataset or video",
        metavar="DATA", again="int8")
    calib_images: int = _option(
        CALIBRATION_IMAGES, "precision", "how many of them", metavar="N", again="int8")
    calib_method: str | None = _option(
        None, "precision", "how ranges are found",
        choices=CALIBRATION_METHODS, shown="minmax", again="int8")
    calib_cache: Path | None = _option(
        None, "precision", "file of the ranges", metavar="FILE", shown="beside the engine")
    int8_mode: str = _option(
        "explicit", "precision", "Q/DQ in the network, or TensorRT's own calibrator (8.x and 10.x)",
        choices=INT8_MODES, again="int8")
    held_out: int = _option(
        HELD_OUT, "precision",
        "pictures on which the damage of each block is measured; 0 skips that",
        metavar="N", again="int8")
    max_ap_drop: float = _option(
        MAX_AP_DROP, "precision",
        "points of AP that INT8 may lose; blocks stay FP16 until it loses less",
        metavar="POINTS", again="int8")
    picture: Path | None = _option(
        None, "precision", "draw the damage by INT8 of each block", metavar="PNG")
    tf32: bool = _option(
        True, "precision", "compute FP32 layers in full FP32", aliases=("--noTF32",), again=True)
    verify: str | None = _option(
        None, "precision", "compare model and engine on these: dataset or folder", metavar="DATA")
    verify_images: int | None = _option(
        None, "precision", "how many of them", metavar="N", shown="all")
    verify_limits: tuple[tuple[str, float], ...] = _option(
        (), "precision", f"limits of the comparison: {', '.join(LIMIT_NAMES)}",
        metavar="NAME=VALUE,...", shown="by precision")
    allow_fallback: bool = _option(
        False, "precision", "accept an engine of larger types than asked", again=True)

    nms: str = _option("none", "network", "where boxes are decoded and NMS runs", choices=NMS_FORMS)
    plugin: Path | None = _option(
        None, "network", "the plugin's library", metavar="FILE", shown="the installed one",
        aliases=("--dynamicPlugins", "--plugins"), again=True)
    batch: tuple[int, int, int] = _option(
        (1, 1, 1), "network", "or one number", metavar="MIN,OPT,MAX", shown="1")

    compute_capability: tuple[str, ...] = _option(
        (), "builder", "build for these GPUs, TensorRT-RTX only: 8.6,8.9",
        metavar="LIST", shown="this machine's, else all from 8.0 on")
    workspace: int | None = _option(
        None, "builder", "most scratch memory: MiB, or 2G, 512M",
        metavar="SIZE", shown="half of the free memory", again=True)
    timing_cache: Path | None = _option(
        None, "builder", "file of measured kernels",
        metavar="FILE", shown="beside the engine", aliases=("--timingCacheFile",))
    use_timing_cache: bool = _option(
        True, "builder", "measure every kernel again", aliases=("--noTimingCache",))
    optimization_level: int | None = _option(
        None, "builder", "effort of the builder", metavar="0-5", shown="TensorRT's",
        aliases=("--builderOptimizationLevel",), again=True)
    version_compatible: bool = _option(
        False, "builder", "newer versions of TensorRT may load the engine",
        aliases=("--versionCompatible", "--vc"), again=True)
    hardware_compatible: str = _option(
        "none", "builder", "other GPUs may run the engine: ampere_plus or same_compute_capability",
        metavar="LEVEL", aliases=("--hardwareCompatibilityLevel",), again=True)
    strip_weights: bool = _option(
        False, "builder", "leave the weights out", aliases=("--stripWeights",), again=True)
    dla_core: int | None = _option(
        None, "builder", "run on this DLA core", metavar="N", aliases=("--useDLACore",), again=True)
    gpu_fallback: bool = _option(
        False, "builder", "the GPU runs layers that the DLA cannot run",
        aliases=("--allowGPUFallback",), again=True)
    without_tactics: tuple[str, ...] = _option(
        (), "builder", "sources of kernels to leave out: CUDNN,CUBLAS", metavar="LIST", again=True)

    dry_run: bool = _option(False, "run", "convert, parse, check and show the plan; do not build")
    force: bool = _option(False, "run", "replace a file that is not an engine of trt-afdet")
    # fmt: on

    def __post_init__(self) -> None:
        for option in options():
            value = getattr(self, option.name)
            if option.choices and value is not None:
                _one_of(option.name.replace("_", "-"), value, option.choices)
        _one_of("hardware-compatible", self.hardware_compatible, COMPATIBILITIES)
        least, best, most = self.batch
        if not 1 <= least <= best <= most:
            raise InvalidValueError(
                "the batch range must ascend from 1 on: MIN,OPT,MAX",
                got=",".join(map(str, self.batch)),
            )
        if most > _LARGEST_BATCH:
            raise InvalidValueError(f"a batch is at most {_LARGEST_BATCH}", got=most)
        if self.io == "float16" and self.precision == "fp32":
            raise InvalidValueError("FP16 input and outputs go with fp16 and int8", got="fp32")
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise InvalidValueError("the optimization level is 0 to 5", got=self.optimization_level)
        if self.workspace is not None and not 1 <= self.workspace <= _LARGEST_SIZE:
            raise InvalidValueError(
                f"the workspace must be above 0 and at most {_LARGEST_SIZE >> 20} MiB",
                got=f"{self.workspace} bytes",
            )
        if self.plugin is not None and self.nms != "plugin":
            raise InvalidValueError("a plugin goes with --nms plugin", got=f"--nms {self.nms}")
        self._check_int8()
        self._check_verify()
        self._check_dla()

    def _check_int8(self) -> None:
        if self.precision == "int8" and self.calib is None:
            raise InvalidValueError(
                "INT8 needs calibration pictures", hint="--calib FOLDER, COCO.json or VIDEO"
            )
        if self.precision in ("fp32", "fp16") and self.calib is not None:
            raise InvalidValueError(
                "calibration pictures go with --precision int8 or best", got=self.precision
            )
        if self.int8_mode == "implicit" and self.calib_method not in (None, "entropy"):
            raise InvalidValueError(
                "TensorRT's own calibrator has the method entropy only", got=self.calib_method
            )
        if self.picture is not None and (self.calib is None or self.int8_mode == "implicit"):
            raise InvalidValueError(
                "the picture of what INT8 hurts goes with explicit INT8", got=self.picture
            )

    def _check_verify(self) -> None:
        for name, value in self.verify_limits:
            _one_of("verify-limits", name, LIMIT_NAMES)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(f"the limit {name} must be 0 or more", got=value)
        if self.verify is None and (self.verify_limits or self.verify_images is not None):
            raise InvalidValueError("there is nothing to verify on", hint="--verify COCO.json")
        if self.verify_images is not None and self.verify_images < 1:
            raise InvalidValueError("the gate needs at least 1 picture", got=self.verify_images)

    def _check_dla(self) -> None:
        if self.dla_core is None:
            if self.gpu_fallback:
                raise InvalidValueError("--gpu-fallback goes with --dla-core")
            return
        if self.precision not in ("fp16", "int8"):
            raise InvalidValueError("the DLA computes in fp16 or int8", got=self.precision)
        if len(set(self.batch)) > 1:
            raise InvalidValueError(
                "the DLA takes one batch size", got=",".join(map(str, self.batch))
            )

    @property
    def implicit(self) -> bool:
        """Whether TensorRT calibrates INT8 itself."""
        return self.precision == "int8" and self.int8_mode == "implicit"

    def words(self) -> tuple[str, ...]:
        """The command line of all that the sidecar does not hold elsewhere, to build this again."""
        words: list[str] = []
        for option in options():
            value = getattr(self, option.name)
            if option.again == "int8":
                wanted = self.precision == "int8"
            else:
                wanted = bool(option.again) and value != option.default
            if wanted and value is not None:
                words += option.flags[:1] if option.is_switch else _words(option, value)
        return tuple(words)


def _words(option: Option, value: Any) -> tuple[str, str]:
    """An option and its value as the command line takes them."""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if option.name in ("calib", "plugin"):
        text = str(Path(value).resolve())
    return option.flags[0], f"{text}B" if option.name == "workspace" else text


@cache
def options() -> tuple[Option, ...]:
    """Every option of the command line, in its order."""
    return tuple(
        Option(field.name, field.default, **field.metadata["option"])
        for field in dataclasses.fields(BuildOptions)
        if "option" in field.metadata
    )


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidValueError(f"{name} must be one of {', '.join(choices)}", got=value)
