"""What this machine has of what trt-afdet can use, and how to get the rest.

Each check looks at the real thing (loads the library, asks the driver) and returns rows; none
raises.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from trt_afdet import native

#: Oldest Python that the package installs on.
OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Row:
    """One finding.

    Attributes:
        status: ``"ok"``, ``"warn"`` (something optional is missing) or ``"fail"``.
        name: What was looked at.
        detail: What was found.
        fix: What to do about it; empty if nothing.
    """

    status: str
    name: str
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def examine() -> list[Row]:
    """All rows, in the order a reader would ask for them."""
    return [row for check in CHECKS for row in check()]


def _python() -> Iterator[Row]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info >= OLDEST_PYTHON:
        yield Row("ok", "Python", found)
    else:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield Row("fail", "Python", found, f"use Python {wanted} or newer")


#: Packages by import name: what they are for, and the extra that brings them. None: always needed.
_PACKAGES = {
    "numpy": ("arrays", None),
    "cv2": ("pictures and videos", None),
    "onnxruntime": ("running ONNX files", "runtime"),
    "onnx": ("changing ONNX files", "onnx"),
}


def _packages() -> Iterator[Row]:
    for name, (purpose, extra) in _PACKAGES.items():
        try:
            version = str(getattr(importlib.import_module(name), "__version__", "version unknown"))
        except Exception as error:  # A broken binary package raises anything it likes.
            what = f"trt-afdet[{extra}]" if extra else "trt-afdet"
            status = "warn" if extra else "fail"
            detail = f"cannot be imported, for {purpose}: {str(error).splitlines()[0]}"
            yield Row(status, name, detail, f'pip install "{what}"')
        else:
            yield Row("ok", name, version)


def _native_parts() -> Iterator[Row]:
    parts: tuple[tuple[str, str, Callable[[], str], str], ...] = (
        (
            "host library",
            "afdet_host",
            lambda: native.host().build_info,
            "install a C++ compiler, then: pip install --force-reinstall --no-deps trt-afdet",
        ),
        (
            "CUDA library",
            "afdet_cuda",
            lambda: native.cuda().build_info,
            "where nvcc is on PATH: pip install --force-reinstall --no-deps trt-afdet",
        ),
        (
            "TensorRT plugin",
            "afdet_plugin",
            native.plugin_build_info,
            "where nvcc and TensorRT's headers are (TensorRT_ROOT=...): "
            "pip install --force-reinstall --no-deps trt-afdet",
        ),
    )
    for name, library, describe, fix in parts:
        try:
            yield Row("ok", name, f"{describe()}; {native.find(library)}")
        except native.NativeMissingError as error:
            yield Row("warn", name, error.what, fix)


def _tensorrt() -> Iterator[Row]:
    found = []
    for name in ("tensorrt", "tensorrt_rtx"):
        if importlib.util.find_spec(name) is None:
            continue
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except Exception as error:  # Bindings without their libraries.
            detail = f"{name} is installed but cannot be imported: {str(error).splitlines()[0]}"
            yield Row("fail", "TensorRT", detail, "install TensorRT's libraries of that version")
    if found:
        yield Row("ok", "TensorRT", ", ".join(found))
    elif not any(importlib.util.find_spec(n) for n in ("tensorrt", "tensorrt_rtx")):
        fix = "on a Jetson it comes with JetPack; elsewhere: pip install tensorrt"
        yield Row("warn", "TensorRT", "not installed", fix)


def _gpu() -> Iterator[Row]:
    """The driver is asked directly: no CUDA package needs to be installed for it."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        yield Row("warn", "NVIDIA GPU", "no driver", "install the NVIDIA driver; ONNX runs without")
        return
    status = driver.cuInit(0)
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if status == 0:
        driver.cuDriverGetVersion(ctypes.byref(version))
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        detail = f"a driver, but no usable GPU (CUDA error {status})"
        yield Row("warn", "NVIDIA GPU", detail, "see `nvidia-smi`; ONNX runs without")
        return
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    for index in range(count.value):
        yield Row("ok", "NVIDIA GPU", f"{_describe_device(driver, index)}, driver for CUDA {cuda}")


def _describe_device(driver: ctypes.CDLL, index: int) -> str:
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
    major_attribute, minor_attribute = 75, 76
    device = ctypes.c_int(0)
    text = ctypes.create_string_buffer(256)
    major, minor, memory = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(text, len(text), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), major_attribute, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), minor_attribute, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    gib = memory.value / 2**30
    return f"{text.value.decode()}, compute {major.value}.{minor.value}, {gib:.0f} GiB"


CHECKS: tuple[Callable[[], Iterator[Row]], ...] = (
    _python,
    _packages,
    _native_parts,
    _tensorrt,
    _gpu,
)
