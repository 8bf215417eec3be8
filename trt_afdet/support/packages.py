"""The packages that trt-afdet imports: what brings each, and what to say where one does not import.

One table serves every error and `trt-afdet doctor`; a test compares it with the project's metadata.
"""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from pathlib import Path

from trt_afdet.errors import MissingDependencyError

#: Import name: the distribution, and the smallest extra that brings it (None: always installed).
PACKAGES: dict[str, tuple[str, str | None]] = {
    "numpy": ("numpy", None),
    "cv2": ("opencv-python-headless", None),
    "onnxruntime": ("onnxruntime", "runtime"),
    "rich": ("rich", "runtime"),
    "faster_coco_eval": ("faster-coco-eval", "runtime"),
    "av": ("av", "runtime"),
    "PIL": ("pillow", None),
    "matplotlib": ("matplotlib", "plots"),
    "onnx": ("onnx", "onnx"),
    "onnxsim": ("onnxsim", "onnx"),
    "vizdoom": ("vizdoom", "doom"),
    "fastapi": ("fastapi", "web"),
    "starlette": ("fastapi", "web"),
    "anyio": ("fastapi", "web"),
    "uvicorn": ("uvicorn", "web"),
    "websockets": ("websockets", "web"),
    "prometheus_client": ("prometheus-client", "web"),
    "trackers": ("trackers", "track"),
    "supervision": ("supervision", "track"),
    "paho": ("paho-mqtt", "mqtt"),
    "redis": ("redis", "redis"),
    "yaml": ("PyYAML", "cameras"),
    "pydantic": ("pydantic", "cameras"),
    "pydantic_core": ("pydantic", "cameras"),
    "torch": ("torch", "train"),
    "torchvision": ("torchvision", "train"),
    "timm": ("timm", "train"),
    "safetensors": ("safetensors", "train"),
    "tensorboard": ("tensorboard", "train"),
    "onnxscript": ("onnxscript", "train"),
    "afdet_train": ("trt-afdet", "train"),
}

#: Libraries that Python packages expect of the system.
SYSTEM_LIBRARIES = (
    "libGL.so.1", "libEGL.so.1", "libGLX.so.0", "libOpenGL.so.0", "libglib-2.0.so.0",
    "libgthread-2.0.so.0", "libgobject-2.0.so.0", "libSM.so.6", "libICE.so.6", "libX11.so.6",
    "libX11-xcb.so.1", "libXext.so.6", "libXrender.so.1", "libxcb.so.1", "libxcb-icccm.so.4",
    "libxcb-image.so.0", "libxcb-keysyms.so.1", "libxcb-randr.so.0", "libxcb-render.so.0",
    "libxcb-render-util.so.0", "libxcb-shape.so.0", "libxcb-shm.so.0", "libxcb-sync.so.1",
    "libxcb-util.so.1", "libxcb-xfixes.so.0", "libxcb-xinerama.so.0", "libxcb-xkb.so.1",
    "libxkbcommon.so.0", "libxkbcommon-x11.so.0", "libfontconfig.so.1", "libfreetype.so.6",
    "libdbus-1.so.3", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1", "libz.so.1",
    "libopenblas.so.0", "libatomic.so.1",
)  # fmt: skip
_ODD_PACKAGES = {"libz.so.1": "zlib1g"} | dict.fromkeys(
    ("libglib-2.0.so.0", "libgthread-2.0.so.0", "libgobject-2.0.so.0"), "libglib2.0-0"
)

#: Where the graphical build of OpenCV lacks a library, the other build needs none of them.
HEADLESS = (
    "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
)

_LIBRARY = re.compile(r"([\w.+-]+\.so(?:\.\d+)*): cannot open shared object file")
_SYSTEM_TOO_OLD = re.compile(r"version `((?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found")
_OTHER_NUMPY = re.compile(r"compiled using NumPy|numpy\.core\.multiarray failed|_ARRAY_API")


def install(extra: str | None = None) -> str:
    """The command that brings an extra."""
    return f'pip install "trt-afdet[{extra}]"' if extra else 'pip install "trt-afdet"'


def missing(error: ImportError, *, extra: str | None = None) -> MissingDependencyError:
    """The error in place of an ImportError; the remedy is the smallest extra by default."""
    if isinstance(error, MissingDependencyError):
        return error
    text = str(error)
    module = _module(error)
    distribution, own_extra = PACKAGES.get(module, (module, None))
    extra = extra if own_extra is not None or module not in PACKAGES else None
    if library := _LIBRARY.search(text):
        return _missing_library(module, distribution, library[1])
    name = "OpenCV (cv2)" if module == "cv2" else distribution
    if found := _SYSTEM_TOO_OLD.search(text):
        what, got = f"{name} is built for a newer system than this", f"it needs {found[1]}"
        hint = f"use a newer system, or install an older release of {distribution}"
    elif _OTHER_NUMPY.search(text):
        what, got = f"{name} is built for another numpy than the installed one", _numpy_version()
        hint = f"pip install --upgrade numpy {distribution}"
    elif isinstance(error, ModuleNotFoundError) and not _is_there(module):
        known = module in PACKAGES or extra is not None
        hint = install(extra or own_extra) if known else f"pip install {distribution}"
        return MissingDependencyError(f"{name} is not installed", hint=hint)
    else:
        what = f"{name} is installed but cannot be imported"
        got = (text.splitlines() or [type(error).__name__])[0]
        hint = f"pip install --force-reinstall {distribution}"
    return MissingDependencyError(what, got=got, hint=hint)


def is_ours(error: ImportError) -> bool:
    """Whether an ImportError is a mistake in this package, not a package that is missing."""
    name = (error.name or "").partition(".")[0]
    return name == "trt_afdet" or (name == "afdet_train" and _is_there(name))


def debian_package(library: str) -> str:
    """Debian's and Ubuntu's package of a library, by Debian's rule for their names."""
    stem, _, number = library.lower().replace("_", "-").partition(".so.")
    return _ODD_PACKAGES.get(library, f"{stem}{'-' * stem[-1].isdigit()}{number}")


def debian_packages(libraries: list[str]) -> str:
    """The command that brings libraries of the system; empty where none is known."""
    packages = sorted({debian_package(name) for name in libraries if name in SYSTEM_LIBRARIES})
    return f"sudo apt-get install -y {' '.join(packages)}" if packages else ""


def absent_libraries(module: str) -> list[str]:
    """The system's libraries that an installed package needs and that cannot be found.

    Python's error names only the first; ``ldd``, a part of every glibc system, names all of them.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return []
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    binaries = [str(path) for folder in folders for path in sorted(Path(folder).glob("*.so"))]
    if not binaries:
        return []
    import subprocess

    try:
        ran = subprocess.run(["ldd", *binaries], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    printed = ran.stdout.decode(errors="replace")
    return sorted(set(re.findall(r"^\s*(\S+) => not found", printed, flags=re.MULTILINE)))


def _missing_library(module: str, distribution: str, library: str) -> MissingDependencyError:
    absent = sorted({library, *absent_libraries(module)})
    unknown = f"install the system package that brings {library} (apt-file search {library})"
    hint = debian_packages(absent) or unknown
    if module == "cv2":
        distribution = "OpenCV (cv2)"
        hint += f"; or, without root, use the build that needs none of them: {HEADLESS}"
    what = f"{distribution} cannot be loaded: this system has no {', '.join(absent)}"
    return MissingDependencyError(what, hint=hint)


def _module(error: ImportError) -> str:
    """The package that failed. A library's ImportError often carries no name, its frames do."""
    if error.name:
        return error.name.partition(".")[0]
    trace, found = error.__traceback__, ""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if name in PACKAGES and name != "afdet_train":
            found = name
        trace = trace.tb_next
    if not found and re.search(r"\b(cv2|libopencv\w*)\b", str(error)):
        found = "cv2"
    return found or "a package"


def _is_there(module: str) -> bool:
    with suppress(ImportError, ValueError):
        return importlib.util.find_spec(module) is not None
    return False


def _numpy_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    with suppress(PackageNotFoundError):
        return f"numpy {version('numpy')}"
    return "none"
