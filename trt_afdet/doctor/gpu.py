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
    where = ["install a C++ compiler, then", "where nvcc is on PATH"]
    where += ["where nvcc and TensorRT's headers are (TensorRT_ROOT=...)"]
    parts: tuple[tuple[str, str, Callable[[], str]], ...] = (
        ("host library", "afdet_host", lambda: native.host().build_info),
        ("CUDA library", "afdet_cuda", lambda: native.cuda().build_info),
        ("TensorRT plugin", "afdet_plugin", native.plugin_build_info),
    )
    for (name, library, describe), place in zip(parts, where, strict=True):
        try:
            yield Row("ok", name, f"{describe()}; {native.find(library)}")
        except native.NativeMissingError as error:
            is_host = library == "afdet_host"
            detail = error.what + "; NumPy does its work, slower" * is_host
            fix = f"{place}: pip install --force-reinstall --no-deps trt-afdet"
            yield Row("fix", name, detail, fix, () if is_host else ENGINES)


def tensorrt(machine: Machine) -> Iterator[Row]:
    """The bindings, the library behind them, and whether both are of one version."""
    installed = [name for name in _FLAVOURS if importlib.util.find_spec(name) is not None]
    for name in installed:
        yield _bindings(name)
    if installed:
        return
    paths = [p for f in _LIBRARY_FOLDERS for p in machine.glob(f"{f}/libnvinfer.so.*.*.*")]
    library = ".".join(paths[0].name.split(".")[2:5]) if paths else None
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
        match = re.search(rf"(/\S*/{name}\.so[.\d]*)$", maps, flags=re.MULTILINE)
        return version_of(ctypes.CDLL(match[1]).getInferLibVersion()) if match else None
    except (OSError, AttributeError):
        return None


def version_of(number: int) -> str:
    """``getInferLibVersion()`` as text: 8502 is 8.5.2, 101303 is 10.13.3."""
    unit = 10000 if number >= 10000 else 1000
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


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
    text = ctypes.create_string_buffer(256)
    device, major, minor = (ctypes.c_int(0) for _ in range(3))
    memory = ctypes.c_size_t(0)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(text, len(text), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
    for attribute, value in ((75, major), (76, minor)):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    gib = memory.value / 2**30
    return f"{text.value.decode()}, compute {major.value}.{minor.value}, {gib:.0f} GiB"
