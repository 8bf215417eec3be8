"""Cameras, disk, memory and time."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from trt_afdet.doctor.jetson import release_of
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import ENGINES, Row, judged

GIB = 2**30
#: Uses that need much of the disk and of memory.
_LARGE = ("run", "train", "build-engine")

#: Free disk space below which recordings and engines will not fit.
_LITTLE_DISK = 2 * GIB
#: Available memory below which a detector with some streams will not fit.
_LITTLE_MEMORY = 1 * GIB
#: Memory and swap together that building an engine needs.
_BUILD_MEMORY = 8 * GIB


def compiler(machine: Machine) -> Iterator[Row]:
    """What compiles the native parts from source; a wheel brings them compiled."""
    found = [name for name in ("g++", "clang++", "c++") if shutil.which(name)]
    if importlib.util.find_spec("ziglang") is not None:
        found.append("ziglang (pip)")
    if found:
        yield Row("ok", "C++ compiler", ", ".join(found))
    else:
        detail = "none; only building from source and the C++ tests need one"
        fix = "sudo apt-get install -y g++, or without root: pip install ziglang"
        yield Row("not needed", "C++ compiler", detail, fix)


def display(machine: Machine) -> Iterator[Row]:
    """Where windows would open."""
    names = filter(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))
    shown = [f"{name}={os.environ[name]}" for name in names]
    if shown:
        yield Row("ok", "display", ", ".join(shown))
    elif sys.platform != "linux":
        yield Row("ok", "display", f"that of {sys.platform}")
    else:
        detail = "no screen; only windows (--show, window:) need one"
        yield Row("not needed", "display", detail, "ssh -X, or watch with --web")


def cameras(machine: Machine) -> Iterator[Row]:
    """What V4L2 knows. The driver of a USB camera makes two devices; the second has no pictures."""
    from trt_afdet.stream.sources.v4l2_cameras import list_cameras

    largest = {
        camera.device: f" {max(camera.modes, key=lambda mode: mode.width * mode.height)}"
        for camera in list_cameras(str(machine.path("/dev")))
        if camera.modes
    }
    found, csi, closed = [], 0, []
    folders = machine.glob("/sys/class/video4linux/video*")
    for folder in sorted(folders, key=lambda path: int(re.sub(r"\D", "", path.name) or 0)):
        if (machine.read(folder / "index") or "0") != "0":
            continue
        device = machine.path(f"/dev/{folder.name}")
        name = machine.read(folder / "name") or "unknown"
        if name.startswith("vi-output"):
            # The sensor's raw pictures: the ISP behind csi:// makes colours of them.
            found.append(f"csi://{csi} {name.partition(', ')[2] or name}")
            csi += 1
        else:
            found.append(f"/dev/{folder.name} {name}{largest.get(str(device), '')}")
        if not os.access(device, os.R_OK | os.W_OK):
            closed.append(f"/dev/{folder.name}")
    if closed:
        detail = f"{'; '.join(found)}; no permission for {', '.join(closed)}"
        fix = 'sudo usermod -aG video "$USER", then log in again; a container needs --device'
        yield Row("fix", "cameras", detail, fix, ("run", "web"))
    elif found:
        yield Row("ok", "cameras", "; ".join(found))
    else:
        detail = "none at this machine; network cameras need none"
        fix = "plug one in and see `v4l2-ctl --list-devices`; a container needs --device"
        if release_of(machine):
            fix = "for a CSI camera: sudo /opt/nvidia/jetson-io/jetson-io.py, then reboot"
        yield Row("not needed", "cameras", detail, fix)


def disk(machine: Machine) -> Iterator[Row]:
    """The disk that this runs on: recordings and spools go below the current folder."""
    folder = Path.cwd() if machine.is_this_one else machine.root
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free"
    fix = "du -xh --max-depth=2 / | sort -h | tail -20"
    yield judged(usage.free >= _LITTLE_DISK, "disk", found, fix, _LARGE)


def _memory_figures(machine: Machine) -> dict[str, int]:
    """/proc/meminfo, in bytes."""
    text = machine.read("/proc/meminfo") or ""
    pairs = re.findall(r"^(\w+): +(\d+) kB$", text, flags=re.MULTILINE)
    return {name: int(kib) * 1024 for name, kib in pairs}


def memory(machine: Machine) -> Iterator[Row]:
    figures = _memory_figures(machine)
    if "MemTotal" not in figures:
        return
    available = figures.get("MemAvailable", 0)
    found = f"{available / GIB:.1f} of {figures['MemTotal'] / GIB:.1f} GiB available"
    fix = "ps -eo rss,comm --sort=-rss | head"
    yield judged(available >= _LITTLE_MEMORY, "memory", found, fix, _LARGE)


def swap(machine: Machine) -> Iterator[Row]:
    """Needed where memory is small: building an engine takes more than running it."""
    figures = _memory_figures(machine)
    if "MemTotal" not in figures:
        return
    size = figures.get("SwapTotal", 0)
    found = f"{size / GIB:.1f} GiB" if size else "none"
    good = figures["MemTotal"] + size >= _BUILD_MEMORY
    fix = "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
    fix += "sudo mkswap /swapfile && sudo swapon /swapfile"
    detail = found if good else f"{found}: little for building engines"
    yield judged(good, "swap", detail, fix, ENGINES)


def time_sync(machine: Machine) -> Iterator[Row]:
    """Whether the kernel's clock is held by a time server; time stamps of events depend on it."""
    if not machine.is_this_one or not hasattr(ctypes.CDLL(None), "adjtimex"):
        return
    # struct timex is 208 bytes where long has 64 bits; all zero asks without changing anything.
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    not_synchronized = 5  # TIME_ERROR
    if answer == not_synchronized:
        # No fault: in containers and virtual machines the host keeps the clock, unknown to them.
        detail = "no time server keeps the clock, as far as this system knows"
        yield Row("ok", "time", detail, "sudo timedatectl set-ntp true")
    elif answer >= 0:
        yield Row("ok", "time", "synchronized")
