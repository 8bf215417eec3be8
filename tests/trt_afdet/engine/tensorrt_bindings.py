"""The real Python API of TensorRT 8.6, 10 and 11 without their libraries.

A bindings wheel is a megabyte. It imports over stand-in libraries whose few functions return null:
names, enums and signatures are real, and a Builder cannot be made, as without a GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.plugins.tensorrt_parts import PartMissingError, TensorRT, _cached, _download

#: Name of a version -> package and version.
BINDINGS = {
    "8.6": "tensorrt-bindings==8.6.1",
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu12-bindings==10.13.0.35",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}

_LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
#: Version 8 has parsers of UFF and Caffe besides.
_LIBRARIES_OF_8 = (*_LIBRARIES, "libnvparsers")
_NEEDED = re.compile(
    r"\b(create\w*_INTERNAL|get\w*PluginRegistry|getNv\w*|getInfer\w*|initLibNv\w*|getLogger"
    r"|_ZN\d+nv(?:uff|caffe)parser\w+)$"
)


def tensorrt_bindings(name: str) -> TensorRT:
    """A Python that imports a version of :data:`BINDINGS` as ``tensorrt``."""
    package = BINDINGS[name]
    version = package.partition("==")[2]
    tag = f"bindings-{version}-py{sys.version_info.major}{sys.version_info.minor}"
    folder = _cached(f"TRT_AFDET_BINDINGS_{name}", tag, lambda to: _make(package, to))
    environment = {"LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": str(folder / "python")}
    return TensorRT(sys.executable, environment)


def _make(package: str, folder: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise PartMissingError(
            "a C compiler, for stand-ins of TensorRT's libraries", "apt-get install gcc"
        )
    _download(sys.executable, folder, package)
    bindings = folder / "python" / "tensorrt_bindings"
    (folder / "python" / "tensorrt").symlink_to(bindings.name)
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(bindings / "tensorrt.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions = {found for line in listed.splitlines() for found in _NEEDED.findall(line)}
    major = package.partition("==")[2].partition(".")[0]
    (folder / "lib").mkdir()
    for library in _LIBRARIES_OF_8 if major == "8" else _LIBRARIES:
        lines = [f"int stand_in_{library}(void) {{ return 0; }}"]
        if library == _LIBRARIES[0]:
            lines += [f"void* {name}(void) {{ return 0; }}" for name in sorted(functions)]
        target = folder / "lib" / f"{library}.so.{major}"
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", str(target)]
        subprocess.run(
            [compiler, *flags, "-x", "c", "-"],
            input="\n".join([*lines, ""]),
            text=True,
            check=True,
        )
