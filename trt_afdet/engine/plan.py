"""What this machine makes of the options of a build, known before it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trt_afdet.engine.options import BuildOptions
from trt_afdet.errors import AfdetError, InvalidValueError, RunError, WriteError
from trt_afdet.trt.gpu import Gpu
from trt_afdet.trt.sidecar import sidecar_path
from trt_afdet.trt.versions import Flavour

#: Share of the GPU's free memory that a kernel's scratch memory may take; the rest is for weights,
#: activations and what else runs on a small board.
_WORKSPACE_SHARE = 0.5
_LEAST_WORKSPACE = 16 * 2**20


@dataclass(frozen=True)
class BuildPlan:
    """What will be done, and for which GPUs (``compute_capability``).

    ``typed``: the network's own types are the engine's; else flags and constraints are.
    ``workspace`` is in bytes; None leaves it to TensorRT.
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

    def rows(self) -> list[list[str]]:
        """For people: what, and how."""
        chosen = self.options
        kind = "by the network's types" if self.typed else "by flags and constraints"
        if chosen.precision == "int8":
            kind = f"{chosen.int8_mode}, {kind}"
        low, best, high = chosen.batch
        where = self.gpu.name if self.gpu else "no GPU here"
        return [
            ["model", str(chosen.onnx)],
            ["engine", str(chosen.output)],
            ["built by", str(self.flavour)],
            ["for", f"compute capability {', '.join(self.compute_capability)} ({where})"],
            ["precision", f"{chosen.precision}, {kind}"],
            ["input and heads", chosen.io],
            ["NMS", str(self.plugin or chosen.nms)],
            ["batch", str(low) if low == high else f"{low} to {high}, best {best}"],
            ["FP32 layers", "TF32 allowed" if chosen.tf32 else "no TF32"],
            ["workspace", f"{self.workspace / 2**20:.0f} MiB" if self.workspace else "TensorRT's"],
            ["timing cache", str(self.timing_cache or "none")],
            *([["verified on", chosen.verify]] if chosen.verify is not None else []),
            ["options", " ".join(chosen.words()) or "none"],
        ]


def make_plan(options: BuildOptions, flavour: Flavour, gpu: Gpu | None) -> BuildPlan:
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
    plugin = options.plugin
    if options.nms == "plugin" and plugin is None:
        from trt_afdet.native import find

        plugin = Path(find("afdet_plugin"))
    timings, ranges = _caches(options)
    return BuildPlan(
        options=options,
        flavour=flavour,
        gpu=gpu,
        typed=_is_typed(options, flavour),
        compute_capability=_capabilities(options, flavour, gpu),
        workspace=options.workspace or _workspace(gpu.free() if gpu is not None else 0),
        timing_cache=timings if options.use_timing_cache and not flavour.is_rtx else None,
        calib_cache=ranges,
        plugin=plugin,
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
    if output.suffix.lower() in (".onnx", ".json"):
        raise InvalidValueError(
            f"an engine's name must not end in {output.suffix}", got=output, hint="-o model.engine"
        )
    if output.exists() and not sidecar_path(output).exists() and not options.force:
        raise InvalidValueError(
            "there is a file already, and it is not an engine of trt-afdet",
            got=output,
            hint="choose another name, or --force to replace it",
        )
    taken = {options.onnx.resolve()}
    written = (output, sidecar_path(output), *_caches(options), options.picture)
    for path in filter(None, written):
        if path.resolve() in taken:
            raise InvalidValueError("two files of the build have one name", got=path)
        taken.add(path.resolve())
    # Told before minutes of calibration and building, not after them.
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
        "calibrator": options.implicit,
        "compute_capabilities": bool(options.compute_capability),
    }
    for feature, wanted in asked.items():
        if wanted:
            flavour.require(feature)
    if not flavour.is_rtx:
        return
    # What TensorRT-RTX has a name for and cannot do.
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
    if options.dla_core is not None and options.precision == "int8" and not options.implicit:
        raise InvalidValueError(
            f"the DLA of {flavour} takes INT8 only with --int8-mode implicit", got="explicit"
        )
    return options.dla_core is None and not options.implicit


def _capabilities(options: BuildOptions, flavour: Flavour, gpu: Gpu | None) -> tuple[str, ...]:
    if not flavour.is_rtx:
        return (gpu.compute_capability,) if gpu else ()
    known = flavour.compute_capabilities()
    # Turing lacks kernels of Ampere and newer, so it is built for on request only.
    usual = [name for name in known if float(name) >= 8]
    wanted = options.compute_capability or ([gpu.compute_capability] if gpu else usual)
    for name in wanted:
        if name not in known:
            raise InvalidValueError(
                f"{flavour} builds for no such compute capability",
                got=name,
                hint=f"it builds for {', '.join(known)}",
            )
    return tuple(dict.fromkeys(wanted))


def _workspace(free: int) -> int | None:
    """Half of what is free, in whole MiB; None where nothing tells."""
    return max(_LEAST_WORKSPACE, int(free * _WORKSPACE_SHARE) >> 20 << 20) if free else None
