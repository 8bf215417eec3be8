"""The GPU as the builder needs it, asked of the driver directly: no CUDA package is needed."""

from __future__ import annotations

import ctypes
import sys
from ctypes import byref
from dataclasses import dataclass
from pathlib import Path

# CUDA's CU_DEVICE_ATTRIBUTE_*.
_INTEGRATED = 18
_MAJOR, _MINOR = 75, 76

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Gpu:
    """The first GPU.

    Attributes:
        name: As the driver calls it.
        compute_capability: Such as "8.7".
        total: Memory in bytes.
        shared: Whether that is the host's too, as on a Jetson.
    """

    name: str
    compute_capability: str
    total: int
    shared: bool

    def free(self) -> int:
        """Memory in bytes that is free now; 0 if the driver does not say."""
        driver = open_driver()
        left = 0 if driver is None else _free(driver)
        # The driver takes the host's file cache for used, though it gives way.
        return max(left, _available()) if self.shared else left


def find_gpu() -> Gpu | None:
    """The first GPU; None without a driver or without one."""
    driver = open_driver()
    if driver is None:
        return None
    device = ctypes.c_int(0)
    if driver.cuDeviceGet(byref(device), 0):
        return None
    name, total = ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(byref(total), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(byref(value), number, device)
        return value.value

    return Gpu(
        name.value.decode(errors="replace"),
        f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        total.value,
        bool(attribute(_INTEGRATED)),
    )


def open_driver() -> ctypes.CDLL | None:
    """The driver, started; None without it or without a GPU."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def _free(driver: ctypes.CDLL) -> int:
    """Asked in the primary context, which TensorRT uses too."""
    device, context = ctypes.c_int(0), ctypes.c_void_p()
    left, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    if driver.cuDeviceGet(byref(device), 0):
        return 0
    if driver.cuDevicePrimaryCtxRetain(byref(context), device):
        return 0
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return 0
        failed = driver.cuMemGetInfo_v2(byref(left), byref(total))
        driver.cuCtxPopCurrent_v2(byref(ctypes.c_void_p()))
        return 0 if failed else left.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _available() -> int:
    """Available host memory in bytes; 0 if unknown."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return 0
    found = next((line for line in lines if line.startswith("MemAvailable:")), "")
    return int(found.split()[1]) * 1024 if found else 0
