"""What a build is asked for, and what this machine makes of it, known before it starts."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from trt_afdet.errors import AfdetError, InvalidValueError, RunError, WriteError
from trt_afdet.interface import NMS_FORMS
from trt_afdet.trt.gpu import Gpu
from trt_afdet.trt.sidecar import COMPATIBILITIES, PRECISIONS, sidecar_path
from trt_afdet.trt.versions import Flavour

#: How INT8 gets its ranges: Q/DQ in the network, or TensorRT's own calibrator.
INT8_MODES = ("explicit", "implicit")

#: What the verification gate can be told to allow; see :class:`trt_afdet.engine.verify.Limits`.
LIMIT_NAMES = ("output_error", "matched", "ap_drop")

#: Share of the GPU's free memory that a kernel's scratch memory may take; the rest is for weights,
#: activations and what else runs on a small board.
_WORKSPACE_SHARE = 0.5
_LEAST_WORKSPACE = 16 * 2**20

_LEVELS = range(6)

#: What TensorRT's dimensions and sizes hold.
_LARGEST_BATCH = 2**15
_LARGEST_SIZE = 2**50

#: Names that readers take for something else than an engine.
_NOT_ENGINES = (".onnx", ".json")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build. The command line's help says more of each.

    Attributes:
        onnx: The canonical model.
        output: The engine file.
        precision: One of :data:`trt_afdet.trt.sidecar.PRECISIONS`, or "best".
        io: Type of input and float heads: "float32" or "float16".
        nms: One of :data:`trt_afdet.interface.NMS_FORMS`.
        batch: Smallest, best and largest batch.
        image: Channels, height and width that the input is meant to have; the model's by default.
        keep: Blocks or nodes of higher precision.
        calib: Calibration pictures: folder, COCO .json or video.
        calib_images: How many to use.
        calib_method: Of :data:`trt_afdet.engine.precision.calibration.METHODS`; "minmax" if None.
        calib_cache: File of the ranges; beside the engine by default.
        int8_mode: One of :data:`INT8_MODES`.
        held_out: Pictures that sensitivity is measured on; 0 leaves it out.
        max_ap_drop: Points of AP that INT8 may lose.
        picture: PNG of each block's damage by INT8, or None.
        verify: Pictures of the verification gate, or None.
        verify_images: How many of them; None for all.
        verify_limits: Limits of the gate by name, of :data:`LIMIT_NAMES`; the precision's own by
            default.
        tf32: Whether tensor cores may compute FP32 layers in TF32, as TensorRT does by default.
        workspace: Bytes; by default half of the memory that is free.
        timing_cache: File; beside the engine by default.
        use_timing_cache: Whether to keep timings at all.
        optimization_level: 0 to 5; TensorRT's default by default.
        version_compatible: Whether newer versions may load the engine.
        hardware_compatible: One of :data:`trt_afdet.trt.sidecar.COMPATIBILITIES`.
        strip_weights: Whether to leave the weights out.
        dla_core: To run on, or None.
        gpu_fallback: Whether layers that the DLA cannot run may run on the GPU.
        allow_fallback: Whether an engine of larger types than asked is fine.
        compute_capability: GPUs to build for, such as ("8.9",); this machine's by default.
        plugin: The plugin's library; the installed one by default.
        without_tactics: Tactic sources to leave out.
        force: Whether to replace a file that is no engine of ours.
        dry_run: Whether to stop before the build.

    Raises:
        InvalidValueError: If a value is out of range, or two do not go together.
    """

    onnx: Path
    output: Path
    precision: str = "fp16"
    io: str = "float32"
    nms: str = "none"
    batch: tuple[int, int, int] = (1, 1, 1)
    image: tuple[int, ...] | None = None
    keep: tuple[str, ...] = ()
    calib: str | None = None
    calib_images: int = 512
    calib_method: str | None = None
    calib_cache: Path | None = None
    int8_mode: str = "explicit"
    held_out: int = 128
    max_ap_drop: float = 0.5
    picture: Path | None = None
    verify: str | None = None
    verify_images: int | None = None
    verify_limits: tuple[tuple[str, float], ...] = ()
    tf32: bool = True
    workspace: int | None = None
    timing_cache: Path | None = None
    use_timing_cache: bool = True
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: str = "none"
    strip_weights: bool = False
    dla_core: int | None = None
    gpu_fallback: bool = False
    allow_fallback: bool = False
    compute_capability: tuple[str, ...] = ()
    plugin: Path | None = None
    without_tactics: tuple[str, ...] = ()
    force: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, (*PRECISIONS, "best"))
        _one_of("io", self.io, ("float32", "float16"))
        _one_of("nms", self.nms, NMS_FORMS)
        _one_of("int8-mode", self.int8_mode, INT8_MODES)
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

    def words(self) -> tuple[str, ...]:
        """The command line of all that is not in the sidecar elsewhere, to build this again."""
        valued: dict[str, object] = {
            "--io": self.io if self.io != "float32" else None,
            "--keep": ",".join(self.keep) or None,
            "--workspace": None if self.workspace is None else f"{self.workspace}B",
            "--optimization-level": self.optimization_level,
            "--dla-core": self.dla_core,
            "--without-tactics": ",".join(self.without_tactics) or None,
            "--plugin": None if self.plugin is None else self.plugin.resolve(),
        }
        if self.hardware_compatible != "none":
            valued["--hardware-compatible"] = self.hardware_compatible
        if self.precision == "int8":
            valued |= {
                "--calib": None if self.calib is None else Path(self.calib).resolve(),
                "--calib-images": self.calib_images,
                "--calib-method": self.calib_method,
                "--int8-mode": self.int8_mode,
                "--held-out": self.held_out,
                "--max-ap-drop": self.max_ap_drop,
            }
        switches = {
            "--version-compatible": self.version_compatible,
            "--strip-weights": self.strip_weights,
            "--gpu-fallback": self.gpu_fallback,
            "--allow-fallback": self.allow_fallback,
            "--no-tf32": not self.tf32,
        }
        words = [word for k, v in valued.items() if v is not None for word in (k, str(v))]
        return (*words, *(k for k, chosen in switches.items() if chosen))


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidValueError(f"{name} must be one of {', '.join(choices)}", got=value)


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        options: What was asked for.
        flavour: The TensorRT.
        gpu: This machine's; None without.
        typed: Whether the network's own types are the engine's; else flags and constraints are.
        compute_capability: GPUs that the engine is for.
        workspace: Bytes; None leaves it to TensorRT.
        timing_cache: File, or None.
        calib_cache: File of the INT8 ranges.
        plugin: The plugin's library, or None.
    """

    options: BuildOptions
    flavour: Flavour
    gpu: Gpu | None
    typed: bool
    compute_capability: tuple[str, ...]
    workspace: int | None
    timing_cache: Path | None
    calib_cache: Path
    plugin: Path | None

    @property
    def implicit(self) -> bool:
        """Whether TensorRT calibrates INT8 itself."""
        return self.options.precision == "int8" and self.options.int8_mode == "implicit"

    def rows(self) -> list[list[str]]:
        """For people: what, and how."""
        chosen = self.options
        kind = "by the network's types" if self.typed else "by flags and constraints"
        if chosen.precision == "int8":
            kind = f"{chosen.int8_mode}, {kind}"
        low, best, high = chosen.batch
        where = self.gpu.name if self.gpu else "no GPU here"
        rows = [
            ["model", str(chosen.onnx)],
            ["engine", str(chosen.output)],
            ["built by", str(self.flavour)],
            ["for", f"compute capability {', '.join(self.compute_capability)} ({where})"],
            ["precision", f"{chosen.precision}, {kind}"],
            ["input and heads", chosen.io],
            ["NMS", str(self.plugin) if self.plugin else chosen.nms],
            ["batch", str(low) if low == high else f"{low} to {high}, best {best}"],
            ["FP32 layers", "TF32 allowed" if chosen.tf32 else "no TF32"],
            ["workspace", "TensorRT's" if self.workspace is None else _mib(self.workspace)],
            ["timing cache", str(self.timing_cache) if self.timing_cache else "none"],
        ]
        if chosen.verify is not None:
            rows.append(["verified on", chosen.verify])
        return [*rows, ["options", " ".join(chosen.words()) or "none"]]


def make_plan(options: BuildOptions, flavour: Flavour, gpu: Gpu | None) -> Plan:
    """Fits the options to a TensorRT and a GPU.

    Raises:
        InvalidValueError: If this TensorRT cannot do what is asked, or the output is in the way.
        RunError: If there is no GPU where one is needed.
        NativeMissingError: If the plugin is not installed.
    """
    try:
        _check_output(options)
    except OSError as error:  # As of a name that is too long.
        if isinstance(error, AfdetError):
            raise
        raise WriteError("cannot write", got=f"{options.output}: {error.strerror}") from error
    _check_features(options, flavour, gpu)
    if gpu is None and not flavour.is_rtx:
        raise RunError(
            f"{flavour} builds engines only on the GPU that runs them, and there is none",
            hint="run this command on that machine; TensorRT-RTX (--flavour rtx) builds for RTX "
            "GPUs without one",
        )
    timings, ranges = _caches(options)
    return Plan(
        options=options,
        flavour=flavour,
        gpu=gpu,
        typed=_is_typed(options, flavour),
        compute_capability=_capabilities(options, flavour, gpu),
        workspace=options.workspace or _workspace(gpu),
        timing_cache=timings if options.use_timing_cache and not flavour.is_rtx else None,
        calib_cache=ranges,
        plugin=_plugin(options),
    )


def _caches(options: BuildOptions) -> tuple[Path, Path]:
    """Files of the timings and of the INT8 ranges."""
    output = options.output
    return (
        options.timing_cache or output.with_name(f"{output.name}.timing"),
        options.calib_cache or output.with_name(f"{output.name}.calibration.json"),
    )


def _check_output(options: BuildOptions) -> None:
    output = options.output
    if output.is_dir():
        raise InvalidValueError("the engine must be a file", got=output)
    if output.resolve() == options.onnx.resolve():
        raise InvalidValueError("the engine would replace its own model", got=output)
    if output.suffix.lower() in _NOT_ENGINES:
        raise InvalidValueError(
            f"an engine's name must not end in {output.suffix}", got=output, hint="-o model.engine"
        )
    if output.exists() and not sidecar_path(output).exists() and not options.force:
        raise InvalidValueError(
            "there is a file already, and it is no engine of trt-afdet",
            got=output,
            hint="choose another name, or --force to replace it",
        )
    written = [output, sidecar_path(output), *_caches(options)]
    written += [options.picture] if options.picture is not None else []
    taken = {options.onnx.resolve()}
    for path in written:
        if path.resolve() in taken:
            raise InvalidValueError("two files of the build have one name", got=path)
        taken.add(path.resolve())
    _check_writable(output)


def _check_writable(output: Path) -> None:
    """Tells before minutes of calibration and building, not after them."""
    folder = next(path for path in output.absolute().parents if path.exists())
    if not folder.is_dir():
        raise WriteError("cannot write", got=output, hint="a part of the path is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WriteError("cannot write", got=output, hint=f"the folder {folder} is not writable")


def _check_features(options: BuildOptions, flavour: Flavour, gpu: Gpu | None) -> None:
    asked = {
        "optimization_level": options.optimization_level is not None,
        "version_compatible": options.version_compatible,
        "ampere_plus": options.hardware_compatible == "ampere_plus",
        "same_compute_capability": options.hardware_compatible == "same_compute_capability",
        "strip_weights": options.strip_weights,
        "calibrator": options.precision == "int8" and options.int8_mode == "implicit",
        "compute_capabilities": bool(options.compute_capability),
    }
    for feature, wanted in asked.items():
        if wanted:
            flavour.require(feature)
    if flavour.is_rtx:
        _check_rtx(options, flavour, gpu)


def _check_rtx(options: BuildOptions, flavour: Flavour, gpu: Gpu | None) -> None:
    """What TensorRT-RTX has a name for and cannot do."""
    if options.dla_core is not None:
        raise InvalidValueError(f"{flavour} has no DLA", hint="leave out --dla-core")
    if options.version_compatible:
        raise InvalidValueError(
            f"{flavour} brings no lean runtime, which a version-compatible engine holds",
            hint="build with the version that will run it",
        )
    if options.strip_weights and gpu is None:
        raise InvalidValueError(
            f"{flavour} leaves weights out only on a machine with a GPU",
            hint="leave out --strip-weights",
        )


def _is_typed(options: BuildOptions, flavour: Flavour) -> bool:
    """Strongly typed where it exists; not for TensorRT's own calibrator, nor on the DLA while flags
    exist: it takes no typed networks there, and INT8 only from the calibrator."""
    if not flavour.has("typed_networks"):
        return False
    if not flavour.has("precision_flags"):
        return True
    implicit = options.precision == "int8" and options.int8_mode == "implicit"
    if options.dla_core is not None and options.precision == "int8" and not implicit:
        raise InvalidValueError(
            f"the DLA of {flavour} takes INT8 only with --int8-mode implicit", got="explicit"
        )
    return options.dla_core is None and not implicit


def _capabilities(options: BuildOptions, flavour: Flavour, gpu: Gpu | None) -> tuple[str, ...]:
    if not flavour.is_rtx:
        return (gpu.compute_capability,) if gpu else ()
    known = tuple(flavour.compute_capabilities())
    # Turing lacks kernels that Ampere and newer have; it has to be asked for.
    usual = tuple(name for name in known if float(name) >= 8)
    wanted = options.compute_capability or ((gpu.compute_capability,) if gpu else usual)
    for name in wanted:
        if name not in known:
            raise InvalidValueError(
                f"{flavour} builds for no such compute capability",
                got=name,
                hint=f"it builds for {', '.join(known)}",
            )
    return tuple(dict.fromkeys(wanted))


def _workspace(gpu: Gpu | None) -> int | None:
    """Half of what is free, in whole MiB."""
    if gpu is None or not (free := gpu.free()):
        return None
    return max(_LEAST_WORKSPACE, int(free * _WORKSPACE_SHARE) >> 20 << 20)


def _plugin(options: BuildOptions) -> Path | None:
    if options.nms != "plugin":
        return None
    if options.plugin is not None:
        return options.plugin
    from trt_afdet.native import find

    return Path(find("afdet_plugin"))


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
