"""The GPU, its driver, TensorRT, and the native parts of this package."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from trt_afdet import native
from trt_afdet.doctor.jetson import release_of
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import ENGINES, Row, first_line
from trt_afdet.support.packages import install

#: Bindings by import name, with the file name of the library behind them.
_FLAVOURS = {"tensorrt": "libnvinfer", "tensorrt_rtx": "libtensorrt_rtx"}

#: Where installers put TensorRT's libraries.
_LIBRARY_FOLDERS = ("/usr/lib/*-linux-gnu", "/usr/local/tensorrt/lib", "/usr/local/TensorRT*/lib")


def native_parts(machine: Machine) -> Iterator[Row]:
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
            if name == "host library":
                yield Row("fix", name, f"{error.what}; NumPy does its work, slower", fix, ())
            else:
                yield Row("fix", name, error.what, fix, ENGINES)


def tensorrt(machine: Machine) -> Iterator[Row]:
    """The bindings, the library behind them, and whether both are of one version."""
    installed = [name for name in _FLAVOURS if importlib.util.find_spec(name) is not None]
    for name in installed:
        yield _bindings(name)
    if installed:
        return
    library = _library_on_disk(machine)
    release = release_of(machine)
    if library is None:
        detail = "not installed"
        fix = install("tensorrt")
        if release:
            fix = "sudo apt-get update && sudo apt-get install -y nvidia-jetpack"
    else:
        version = ".".join(map(str, sys.version_info[:2]))
        detail = f"the library is there ({library}), but no bindings for Python {version}"
        fix = f'pip install "tensorrt=={library}"'
        if release and release[0] <= 35:
            # JetPack 5 has bindings for Python 3.8 alone.
            fix = (
                'deploy/jetson/build_bindings.sh "$(command -v python)" wheels && '
                "pip install wheels/tensorrt-*.whl"
            )
        elif release:
            fix = "python3 -m venv --system-site-packages .venv, so that JetPack's are seen"
    yield Row("fix", "TensorRT", detail, fix, ENGINES)


def _bindings(name: str) -> Row:
    try:
        module = importlib.import_module(name)
        version = str(module.__version__)
    except Exception as error:  # Bindings without their libraries.
        detail = f"{name} is installed but cannot be imported: {first_line(error)}"
        fix = "install TensorRT's libraries of that version"
        return Row("fix", "TensorRT", detail, fix, ENGINES)
    library = _loaded_library(_FLAVOURS[name])
    if library is None:
        return Row("ok", "TensorRT", f"{name} {version}")
    if version.split(".")[:3] == library.split("."):
        return Row("ok", "TensorRT", f"{name} {version}, library {library}")
    detail = f"bindings of {name} {version} run on the library of {library}"
    fix = f'pip install "{name}=={library}", or mend LD_LIBRARY_PATH'
    return Row("fix", "TensorRT", detail, fix, ENGINES)


def _loaded_library(name: str) -> str | None:
    """The version that the library in this process tells of itself."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    match = re.search(rf"(/\S*/{name}\.so[.\d]*)$", maps, flags=re.MULTILINE)
    if match is None:
        return None
    try:
        number = int(ctypes.CDLL(match[1]).getInferLibVersion())
    except (OSError, AttributeError):
        return None
    return version_of(number)


def version_of(number: int) -> str:
    """``getInferLibVersion()`` as text: 8502 is 8.5.2, 101303 is 10.13.3."""
    unit = 10000 if number >= 10000 else 1000
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


def _library_on_disk(machine: Machine) -> str | None:
    for folder in _LIBRARY_FOLDERS:
        for path in machine.glob(f"{folder}/libnvinfer.so.*.*.*"):
            return ".".join(path.name.split(".")[2:5])
    return None


def cuda_packages(machine: Machine) -> Iterator[Row]:
    """The package for an engine's memory and streams; needs TensorRT to be useful."""
    if not any(importlib.util.find_spec(name) for name in _FLAVOURS):
        return
    for module, name in (("pycuda", "pycuda"), ("cuda", "cuda-python")):
        if importlib.util.find_spec(module) is not None:
            yield Row("ok", "CUDA package", name)
            return
    fix = "pip install cuda-python (on JetPack 5: pip install pycuda)"
    detail = "neither cuda-python nor pycuda, for running engines"
    yield Row("fix", "CUDA package", detail, fix, ENGINES)


def driver(machine: Machine) -> Iterator[Row]:
    """The driver is asked directly: no CUDA package needs to be installed for it."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        fix = "install the NVIDIA driver; ONNX runs without"
        if machine.path("/.dockerenv").exists():
            fix = "start the container with --runtime nvidia (PC: --gpus all); ONNX runs without"
        yield Row("fix", "NVIDIA GPU", "no driver", fix, ENGINES)
        return
    status = library.cuInit(0)
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    if status == 0:
        library.cuDriverGetVersion(ctypes.byref(version))
        status = library.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        detail = f"a driver, but no usable GPU (CUDA error {status})"
        yield Row("fix", "NVIDIA GPU", detail, "see `nvidia-smi`; ONNX runs without", ENGINES)
        return
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    for index in range(count.value):
        yield Row("ok", "NVIDIA GPU", f"{_describe_device(library, index)}, driver for CUDA {cuda}")


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
