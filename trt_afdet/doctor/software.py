"""Python and its packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator

from trt_afdet.doctor.jetson import release_of
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import Row, first_line

#: Oldest Python that the package installs on.
OLDEST_PYTHON = (3, 10)

#: Packages by import name: what they are for, and the extra that brings them. None: always needed.
_PACKAGES = {
    "numpy": ("arrays", None),
    "cv2": ("pictures and videos", None),
    "onnx": ("changing ONNX files", "onnx"),
}

#: What cameras, the web page and sinks need: import name, distribution, purpose, extra.
_STREAM_PACKAGES = (
    ("yaml", "PyYAML", "cameras.yaml", "cameras"),
    ("pydantic", "pydantic", "cameras.yaml", "cameras"),
    ("trackers", "trackers", "tracking", "track"),
    ("paho", "paho-mqtt", "the MQTT sink", "mqtt"),
    ("redis", "redis", "the Redis sink", "redis"),
    ("fastapi", "fastapi", "the web page", "web"),
    ("uvicorn", "uvicorn", "the web page", "web"),
    ("prometheus_client", "prometheus_client", "/metrics", "web"),
)


def install(extra: str | None = None) -> str:
    """The command that brings an extra."""
    return f'pip install "trt-afdet[{extra}]"' if extra else 'pip install "trt-afdet"'


def python(machine: Machine) -> Iterator[Row]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info >= OLDEST_PYTHON:
        yield Row("ok", "Python", found)
    else:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield Row("fail", "Python", found, f"uv python install {wanted}")


def packages(machine: Machine) -> Iterator[Row]:
    for name, (purpose, extra) in _PACKAGES.items():
        try:
            version = str(getattr(importlib.import_module(name), "__version__", "version unknown"))
        except Exception as error:  # A broken binary package raises anything it likes.
            status = "warn" if extra else "fail"
            detail = f"cannot be imported, for {purpose}: {first_line(error)}"
            yield Row(status, name, detail, install(extra))
        else:
            yield Row("ok", name, version)


def build_information() -> dict[str, str]:
    """OpenCV's build information: ``{"GStreamer": "YES (1.20.3)"}`` and so on."""
    text = importlib.import_module("cv2").getBuildInformation()
    # Of names that come more than once, the first is the summary.
    found: dict[str, str] = {}
    for name, value in re.findall(r"^ *([\w/+ ]+):[ \t]+(\S.*?) *$", text, flags=re.MULTILINE):
        found.setdefault(name.strip(), value)
    return found


def opencv_video(machine: Machine) -> Iterator[Row]:
    if importlib.util.find_spec("cv2") is None:
        return
    information = build_information()
    ffmpeg, gstreamer = (information.get(name, "NO") for name in ("FFMPEG", "GStreamer"))
    found = f"FFmpeg {ffmpeg}, GStreamer {gstreamer}, V4L2 {information.get('v4l/v4l2', 'NO')}"
    if ffmpeg.startswith("YES"):
        yield Row("ok", "OpenCV video", found)
    else:
        fix = "pip install --force-reinstall --no-deps opencv-python"
        yield Row("warn", "OpenCV video", f"{found}: video files cannot be written", fix)


def gstreamer(machine: Machine) -> Iterator[Row]:
    """What plays ``csi://`` and ``gst://``, and reaches a Jetson's decoder."""
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        gst = importlib.import_module("gi.repository.Gst")
        gst.init(None)
        elements = gst.ElementFactory
        version = ".".join(map(str, gst.version()[:3]))
    except Exception as error:  # gi raises ValueError for a typelib that is missing.
        yield _gstreamer_of_opencv(first_line(error))
        return
    wanted = ["appsink", "videoconvert"]
    if release_of(machine):
        wanted += ["nvarguscamerasrc", "nvvidconv", "nvv4l2decoder"]
    missing = [name for name in wanted if elements.find(name) is None]
    if missing:
        packages = "gstreamer1.0-plugins-base"
        if release_of(machine):
            packages += " nvidia-l4t-gstreamer nvidia-l4t-camera"
        detail = f"{version}, without {', '.join(missing)}"
        yield Row("warn", "GStreamer", detail, f"sudo apt-get install -y {packages}")
    else:
        yield Row("ok", "GStreamer", f"{version}, through PyGObject {gi.__version__}")


def _gstreamer_of_opencv(problem: str) -> Row:
    cv2 = importlib.import_module("cv2")
    # What is built in, or a plugin beside it that loads; the list of backends names it either way.
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        return Row("ok", "GStreamer", "through OpenCV, which does not say why something fails")
    fix = (
        "sudo apt-get install -y python3-gi gir1.2-gst-plugins-base-1.0, and use a venv made with "
        "--system-site-packages (other Pythons: pip install PyGObject)"
    )
    return Row("warn", "GStreamer", f"no csi:// and gst://: {problem}", fix)


def opencv_windows(machine: Machine) -> Iterator[Row]:
    if importlib.util.find_spec("cv2") is None:
        return
    toolkit = build_information().get("GUI", "NONE")
    if toolkit == "NONE":
        fix = "pip uninstall -y opencv-python-headless && pip install opencv-python"
        detail = "a headless build: no window; files, the web page and the rest work"
        yield Row("warn", "OpenCV windows", detail, fix)
    elif sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        yield Row("ok", "OpenCV windows", f"{toolkit}, but no display here: use --web")
    else:
        yield Row("ok", "OpenCV windows", toolkit)


def pyav(machine: Machine) -> Iterator[Row]:
    """PyAV, which opens network cameras and files."""
    try:
        av = importlib.import_module("av")
        codec = ".".join(map(str, av.library_versions["libavcodec"]))
        decoders = [name for name in ("h264", "hevc", "mjpeg") if name in av.codecs_available]
    except Exception as error:
        detail = f"cannot be imported, for network cameras: {first_line(error)}"
        yield Row("warn", "PyAV", detail, install("cameras"))
        return
    hardware = [name for name in ("h264_cuvid", "h264_v4l2m2m") if name in av.codecs_available]
    also = f"; hardware decoders {', '.join(hardware)}" if hardware else ""
    found = f"{av.__version__}, libavcodec {codec}, decodes {', '.join(decoders)}{also}"
    yield Row("ok", "PyAV", found)


def onnxruntime(machine: Machine) -> Iterator[Row]:
    try:
        runtime = importlib.import_module("onnxruntime")
        providers = [name.removesuffix("ExecutionProvider") for name in _providers(runtime)]
    except Exception as error:
        detail = f"cannot be imported, for running ONNX files: {first_line(error)}"
        yield Row("warn", "onnxruntime", detail, install("runtime"))
        return
    yield Row("ok", "onnxruntime", f"{runtime.__version__}, runs on {', '.join(providers)}")


def _providers(runtime: object) -> list[str]:
    return list(runtime.get_available_providers())  # type: ignore[attr-defined]


def stream_packages(machine: Machine) -> Iterator[Row]:
    """Looked up, not imported: a dozen web packages take seconds to load."""
    for module, distribution, purpose, extra in _STREAM_PACKAGES:
        if importlib.util.find_spec(module) is None:
            yield Row("warn", distribution, f"not installed, for {purpose}", install(extra))
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "version unknown"
        yield Row("ok", distribution, f"{version}, for {purpose}")
