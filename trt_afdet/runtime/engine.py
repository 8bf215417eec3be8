"""Opens TensorRT engines; checks everything before TensorRT reads them.

TensorRT itself answers an engine of another version or GPU with "magic tag does not match", or ends
the process. The sidecar beside the engine says which version and GPU it needs.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from trt_afdet.errors import InvalidValueError, MissingDependencyError, RunError
from trt_afdet.interface import PLUGIN_OP, PLUGIN_VERSION
from trt_afdet.native import CudaLibrary, NativeMissingError, cuda, find
from trt_afdet.runtime.device import Device
from trt_afdet.runtime.devices import open_device
from trt_afdet.runtime.engine_network import TensorRTNetwork
from trt_afdet.runtime.runner import Runner
from trt_afdet.support.files import file_sha256
from trt_afdet.trt import sidecar, versions
from trt_afdet.trt.sidecar import EngineSidecar
from trt_afdet.trt.versions import Flavour

#: A flavour in the sidecar -> what :func:`trt_afdet.trt.versions.load` calls it.
_FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}

#: Major versions from one to the next of which version-compatible engines run.
_CARRIED_OVER = ((8, 10), (10, 11))


class EngineMismatchError(InvalidValueError):
    """An engine was built for another TensorRT, GPU or plugin than this machine has."""


def open_engine(path: str | Path, *, index: int = 0, rebuild: bool = False) -> Runner:
    """Opens an engine file.

    Args:
        path: The file; its sidecar lies beside it.
        index: Of the GPU.
        rebuild: Whether to build an engine that does not fit this machine again, with the same
            options, from the ONNX file beside it.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: If a file is missing, damaged or
            changed.
        EngineMismatchError: If it was built for another TensorRT, GPU or plugin.
        MissingDependencyError: If TensorRT, a CUDA package or the plugin is not installed.
        RunError: If there is no GPU, or it fails.
    """
    path = Path(path)
    try:
        return _open(path, index)
    except EngineMismatchError as error:
        if not rebuild:
            raise
        logging.getLogger("trt_afdet").warning("%s; building it again", error.what)
        _rebuild(path, error)
        return _open(path, index)


def _open(path: Path, index: int) -> Runner:
    facts = sidecar.read(path)
    if facts.stripped:
        raise InvalidValueError(
            f"{path} lacks its weights: it was built to be refitted",
            hint="refit it, or build it again without --strip-weights",
        )
    flavour = versions.load(_FLAVOURS[facts.flavour])
    _check_versions(path, facts, flavour)
    device = open_device(index)
    try:
        _check_gpu(path, facts, device)
        if facts.nms == "plugin":
            _load_plugin(flavour)
        with device.active():
            network = TensorRTNetwork(flavour, path.read_bytes(), facts, device, path)
    except BaseException:
        device.close()
        raise
    return Runner(network, device, facts.spec, _kernels(), file=path)


def _mismatch(path: Path, facts: EngineSidecar, what: str) -> EngineMismatchError:
    return EngineMismatchError(f"{path} {what}", hint=rebuild_hint(path, facts))


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch; wheels append a build number that the library leaves out."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def _check_versions(path: Path, facts: EngineSidecar, flavour: Flavour) -> None:
    """Refuses an engine of another version of TensorRT or of the plugin."""
    have, need = _numbers(flavour.version), _numbers(facts.tensorrt_version)
    runs_newer = need[0] == have[0] or (need[0], have[0]) in _CARRIED_OVER
    if have != need and not (facts.version_compatible and need <= have and runs_newer):
        built = f"{facts.flavour} {facts.tensorrt_version}"
        raise _mismatch(path, facts, f"was built with {built}, this machine has {flavour}")
    if facts.nms == "plugin" and facts.plugin_version != PLUGIN_VERSION:
        held = f"version {facts.plugin_version} of the plugin {PLUGIN_OP}"
        what = f"holds {held}, this trt-afdet has version {PLUGIN_VERSION}"
        raise _mismatch(path, facts, what)


def _check_gpu(path: Path, facts: EngineSidecar, device: Device) -> None:
    """Refuses an engine of another kind of GPU."""
    wanted = facts.compute_capability
    have = ".".join(map(str, device.compute_capability))
    fits = wanted is None or have in wanted
    if facts.hardware_compatible == "ampere_plus":
        fits = device.compute_capability >= (8, 0)
        wanted = ("8.0 and newer",)
    if not fits:
        name = f" ({facts.gpu_name})" if facts.gpu_name else ""
        built = f"was built for compute capability {', '.join(wanted or ())}{name}"
        raise _mismatch(path, facts, f"{built}, this GPU has {have} ({device.name})")


def _load_plugin(flavour: Flavour) -> None:
    """Makes the plugin known to TensorRT."""
    try:
        flavour.load_plugin(Path(find("afdet_plugin")), PLUGIN_OP, PLUGIN_VERSION)
    except (NativeMissingError, InvalidValueError) as error:
        raise MissingDependencyError(
            "this engine needs the TensorRT plugin, which cannot be loaded",
            got=error.what,
            hint="where nvcc and TensorRT's headers are: pip install --force-reinstall --no-deps "
            "trt-afdet; or build the engine with --nms onnx or none",
        ) from error


def _kernels() -> CudaLibrary | None:
    """The CUDA library; without it one warning line, and None."""
    try:
        return cuda()
    except NativeMissingError as error:
        logging.getLogger("trt_afdet").warning(
            "%s; frames are prepared and boxes found on the CPU, slower", error
        )
        return None


def rebuild_command(path: Path, facts: EngineSidecar) -> list[str] | None:
    """The words after ``trt-afdet`` that build an engine again.

    None if the ONNX file that it was built from does not lie beside it.
    """
    onnx = path.parent / facts.onnx_file
    if not onnx.is_file() or file_sha256(onnx) != facts.onnx_sha256:
        return None
    return ["build-engine", str(onnx), "-o", str(path), *facts.arguments()]


def rebuild_hint(path: Path, facts: EngineSidecar) -> str:
    """A hint for an engine that does not fit."""
    command = rebuild_command(path, facts)
    if command is None:
        return f"build it again on this machine, from the {facts.onnx_file} that it was built from"
    return f"build it again: trt-afdet {' '.join(command)}"


def _rebuild(path: Path, mismatch: EngineMismatchError) -> None:
    """Builds an engine again, as the hint says; in a process, as the runtime imports no builder."""
    command = rebuild_command(path, sidecar.read(path))
    if command is None:
        raise mismatch
    if subprocess.call([sys.executable, "-m", "trt_afdet", *command]) != 0:
        raise RunError(f"{path} could not be built again", hint=f"trt-afdet {' '.join(command)}")
