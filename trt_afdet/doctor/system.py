"""Cameras, disk, memory and time."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from trt_afdet.doctor.jetson import release_of
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import Row

GIB = 2**30

#: Free disk space below which recordings and engines will not fit.
_LITTLE_DISK = 2 * GIB

#: Available memory below which a detector with some streams will not fit.
_LITTLE_MEMORY = 1 * GIB

#: Memory and swap together that building an engine needs.
_BUILD_MEMORY = 8 * GIB


def cameras(machine: Machine) -> Iterator[Row]:
    """What V4L2 knows. The driver of a USB camera makes two devices; the second has no pictures."""
    from trt_afdet.stream.sources.v4l2_cameras import list_cameras

    largest = {
        camera.device: f" {max(camera.modes, key=lambda mode: mode.width * mode.height)}"
        for camera in list_cameras(str(machine.path("/dev")))
        if camera.modes
    }
    found, csi, closed = [], 0, []
    for folder in sorted(machine.glob("/sys/class/video4linux/video*"), key=_number):
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
        yield Row("warn", "cameras", detail, fix)
    elif found:
        yield Row("ok", "cameras", "; ".join(found))
    else:
        detail = "none at this machine; network cameras need none"
        fix = "plug one in and see `v4l2-ctl --list-devices`; a container needs --device"
        if release_of(machine):
            fix = "for a CSI camera: sudo /opt/nvidia/jetson-io/jetson-io.py, then reboot"
        yield Row("warn", "cameras", detail, fix)


def _number(folder: Path) -> int:
    return int(re.sub(r"\D", "", folder.name) or 0)


def disk(machine: Machine) -> Iterator[Row]:
    """The disk that this runs on: recordings and spools go below the current folder."""
    folder = Path.cwd() if machine.is_this_one else machine.root
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free"
    if usage.free < _LITTLE_DISK:
        yield Row("warn", "disk", found, "du -xh --max-depth=2 / | sort -h | tail -20")
    else:
        yield Row("ok", "disk", found)


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
    if available < _LITTLE_MEMORY:
        yield Row("warn", "memory", found, "ps -eo rss,comm --sort=-rss | head")
    else:
        yield Row("ok", "memory", found)


def swap(machine: Machine) -> Iterator[Row]:
    """Needed where memory is small: building an engine takes more than running it."""
    figures = _memory_figures(machine)
    if "MemTotal" not in figures:
        return
    size = figures.get("SwapTotal", 0)
    found = f"{size / GIB:.1f} GiB" if size else "none"
    if figures["MemTotal"] + size >= _BUILD_MEMORY:
        yield Row("ok", "swap", found)
    else:
        fix = (
            "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && "
            "sudo mkswap /swapfile && sudo swapon /swapfile"
        )
        yield Row("warn", "swap", f"{found}: little for building engines", fix)


def time_sync(machine: Machine) -> Iterator[Row]:
    """Whether the kernel's clock is held by a time server; time stamps of events depend on it."""
    if not machine.is_this_one or not hasattr(ctypes.CDLL(None), "adjtimex"):
        return
    # struct timex is 208 bytes where long has 64 bits; all zero asks without changing anything.
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    not_synchronized = 5  # TIME_ERROR
    if answer == not_synchronized:
        detail = "the clock is not synchronized: time stamps will drift"
        yield Row("warn", "time", detail, "sudo timedatectl set-ntp true")
    elif answer >= 0:
        yield Row("ok", "time", "synchronized")
