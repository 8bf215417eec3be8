"""What only a Jetson has: its model, its release, its power mode and clocks.

Everything is read from files, so neither root nor NVIDIA's programs are needed, and a container
that mounts the files sees the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import ENGINES, Row

#: JetPack by release of Jetson Linux (L4T). No file states it; NVIDIA's release notes do.
_JETPACK = {
    (35, 1, 0): "5.0.2", (35, 2, 1): "5.1", (35, 3, 1): "5.1.1", (35, 4, 1): "5.1.2",
    (35, 5, 0): "5.1.3", (35, 6, 0): "5.1.4", (35, 6, 1): "5.1.5", (35, 6, 2): "5.1.5",
    (36, 2, 0): "6.0 DP", (36, 3, 0): "6.0", (36, 4, 0): "6.1", (36, 4, 2): "6.1.1",
    (36, 4, 3): "6.2", (36, 4, 4): "6.2.1", (36, 4, 7): "6.2.1",
    (38, 2, 0): "7.0", (38, 2, 1): "7.0", (38, 2, 2): "7.0", (38, 4, 0): "7.1",
    (39, 2, 0): "7.2", (39, 2, 1): "7.2.1",
}  # fmt: skip

#: JetPack's first number by the first one of the release.
_JETPACK_SERIES = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}

#: Oldest release whose TensorRT (8.5) this package runs on: that of JetPack 5.1.
_OLDEST = (35, 2)

#: Where the GPU's clock is, by the names it has on Xavier, Orin (JetPack 5 and 6) and Thor.
_GPU_CLOCKS = ("*.gv11b", "*.ga10b", "*.gpu", "gpu-gpc-*")


def release_of(machine: Machine) -> tuple[int, int, int] | None:
    """The release of Jetson Linux, such as (36, 4, 3); None if this is not a Jetson."""
    text = machine.read("/etc/nv_tegra_release") or ""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def board(machine: Machine) -> Iterator[Row]:
    paths = ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
    model = next(filter(None, map(machine.read, paths)), "")
    if "jetson" in model.lower() or (model and release_of(machine)):
        yield Row("ok", "Jetson", model)


def jetpack(machine: Machine) -> Iterator[Row]:
    release = release_of(machine)
    if release is None:
        return
    package = _package_version(machine, "nvidia-jetpack")
    exact = _JETPACK.get(release)
    version = package or exact or f"{_JETPACK_SERIES.get(release[0], 'unknown')} (by its series)"
    found = f"{version}, Jetson Linux {'.'.join(map(str, release))}"
    cuda = machine.glob("/usr/local/cuda*/lib64/libcudart.so*")
    cuda += machine.glob("/usr/local/cuda*/targets/*/lib/libcudart.so*")
    if release[:2] < _OLDEST:
        fix = "flash JetPack 5.1 or newer; until then ONNX Runtime on the CPU"
        yield Row("fix", "JetPack", f"{found}: TensorRT is older than 8.5", fix, ENGINES)
    elif package is None and not (cuda and machine.glob("/usr/lib/*-linux-gnu/libnvinfer.so.*")):
        # The image without JetPack's packages has a driver, but neither CUDA nor TensorRT.
        fix = "sudo apt-get update && sudo apt-get install -y nvidia-jetpack"
        yield Row("fix", "JetPack", f"{found}: CUDA or TensorRT is not installed", fix, ENGINES)
    else:
        yield Row("ok", "JetPack", found)


def _package_version(machine: Machine, name: str) -> str | None:
    """The version of an installed Debian package, without its build number."""
    text = machine.read("/var/lib/dpkg/status") or ""
    for entry in text.split("\n\n"):
        if f"Package: {name}\n" in entry and "install ok installed" in entry:
            match = re.search(r"^Version: ([\w.]+)", entry, flags=re.MULTILINE)
            return match[1] if match else None
    return None


def power_mode(machine: Machine) -> Iterator[Row]:
    """The mode of now, and which one is the fastest that the board has."""
    if release_of(machine) is None:
        return
    configuration = machine.read("/etc/nvpmodel.conf") or ""
    modes = dict(re.findall(r"< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>", configuration))
    status = re.search(r"pmode:0*(\d+)", machine.read("/var/lib/nvpmodel/status") or "")
    now = modes.get(status[1]) if status else None
    if now is None:
        answer = re.search(r"NV Power Mode: *(\S+)", machine.run("nvpmodel", "-q") or "")
        now = answer[1] if answer else None
    if now is None:
        yield Row("fix", "power mode", "cannot be told", "sudo nvpmodel -q", ())
        return
    fastest = max(modes, key=lambda number: _speed(modes[number]), default=None)
    if fastest is None or _speed(now) >= _speed(modes[fastest]):
        yield Row("ok", "power mode", now)
    else:
        detail = f"{now}; the fastest is {modes[fastest]}"
        yield Row("ok", "power mode", detail, f"sudo nvpmodel -m {fastest}")


def _speed(mode: str) -> tuple[int, int, int]:
    """Sorts modes by speed: MAXN_SUPER, MAXN, then by watts, then by cores.

    The ID does not: on an Orin Nano 0 is 15W, on an AGX Orin 0 is MAXN.
    """
    watts = re.search(r"(\d+)W", mode)
    cores = re.search(r"(\d+)_?CORE", mode)
    rank = 2 * ("MAXN" in mode) + ("SUPER" in mode)
    return rank, int(watts[1]) if watts else 0, int(cores[1]) if cores else 0


def clocks(machine: Machine) -> Iterator[Row]:
    """Whether the clocks are at their maxima, as ``jetson_clocks`` sets them."""
    if release_of(machine) is None:
        return
    cpus = machine.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    ranges = [(path / "scaling_min_freq", path / "scaling_max_freq") for path in cpus]
    gpu = [path for name in _GPU_CLOCKS for path in machine.glob(f"/sys/class/devfreq/{name}")]
    ranges += [(path / "min_freq", path / "max_freq") for path in gpu]
    values = [(machine.read(low), machine.read(high)) for low, high in ranges]
    known = [(low, high) for low, high in values if low and high]
    if not known:
        return
    governor = machine.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown"
    speeds = [f"{int(high) / 1e6:.0f} MHz" for _, high in values[-len(gpu) :] if gpu and high]
    found = f"CPU governor {governor}" + f", GPU up to {speeds[0]}" * bool(speeds)
    if all(low == high for low, high in known):
        yield Row("ok", "clocks", f"fixed at their maxima; {found}")
    else:
        yield Row("ok", "clocks", f"vary with the load; {found}", "sudo jetson_clocks")
