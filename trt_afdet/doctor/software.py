"""Python and its packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import replace

from trt_afdet.doctor.jetson import release_of
from trt_afdet.doctor.machine import Machine
from trt_afdet.doctor.row import USES, Row, first_line, judged
from trt_afdet.support.packages import HEADLESS, PACKAGES, install, missing

#: Oldest Python that the package installs on.
OLDEST_PYTHON = (3, 10)

#: Who needs the packages that are imported to look at them.
_PACKAGES = {"numpy": USES, "cv2": USES, "onnx": ("train", "build-engine")}

#: Other packages by import name: purpose, and who needs them (nobody: a sink or a picture alone).
_OTHER_PACKAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rich": ("progress bars", ()),
    "faster_coco_eval": ("AP in demo, eval and training", ("train",)),
    "matplotlib": ("pictures of an evaluation", ("train",)),
    "yaml": ("cameras.yaml and recipes", ("run", "train")),
    "pydantic": ("cameras.yaml and recipes", ("run", "train")),
    "trackers": ("tracking", ("run",)),
    "paho": ("the MQTT sink", ()),
    "redis": ("the Redis sink", ()),
    "fastapi": ("the web page", ("web",)),
    "uvicorn": ("the web page", ("web",)),
    "websockets": ("the web page", ("web",)),
    "prometheus_client": ("/metrics", ("web",)),
    "torch": ("training", ("train",)),
    "torchvision": ("training", ("train",)),
    "timm": ("training", ("train",)),
    "safetensors": ("checkpoints", ("train",)),
}


def python(machine: Machine) -> Iterator[Row]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fix = f"uv python install {'.'.join(map(str, OLDEST_PYTHON))}"
    yield judged(sys.version_info >= OLDEST_PYTHON, "Python", found, fix)


def packages(machine: Machine) -> Iterator[Row]:
    for name, uses in _PACKAGES.items():
        try:
            module = importlib.import_module(name)
        except Exception as error:  # A broken binary package raises anything it likes.
            yield _broken(name, error, uses)
        else:
            version = str(getattr(module, "__version__", "version unknown"))
            # Where both builds of OpenCV are installed, the one installed last is imported.
            builds = filter(_version, ("opencv-python", "opencv-python-headless"))
            of = " and ".join(builds) if name == "cv2" else ""
            yield Row("ok", name, version + (f", of {of}" if of else ""))


def _broken(module: str, error: Exception, uses: tuple[str, ...]) -> Row:
    """The row of a package that cannot be imported."""
    if isinstance(error, ImportError):
        said = missing(error)
        return Row("fix", module, said.what, said.hint or "", uses)
    fix = install(PACKAGES[module][1])
    return Row("fix", module, f"cannot be imported: {first_line(error)}", fix, uses)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def build_information() -> dict[str, str]:
    """OpenCV's build information: ``{"GStreamer": "YES (1.20.3)"}`` and so on."""
    try:
        text = importlib.import_module("cv2").getBuildInformation()
    except ImportError:  # The row of cv2 says why.
        return {}
    pairs = re.findall(r"^ *([\w/+ ]+?) *:[ \t]+(\S.*?) *$", text, flags=re.MULTILINE)
    # Of names that come more than once, the first is the summary.
    return dict(reversed(pairs))


def opencv_video(machine: Machine) -> Iterator[Row]:
    information = build_information()
    if not information:
        return
    ffmpeg, gstreamer = (information.get(name, "NO") for name in ("FFMPEG", "GStreamer"))
    found = f"FFmpeg {ffmpeg}, GStreamer {gstreamer}, V4L2 {information.get('v4l/v4l2', 'NO')}"
    good = ffmpeg.startswith("YES")
    detail = found if good else f"{found}: video files cannot be written"
    yield judged(good, "OpenCV video", detail, HEADLESS)


def gstreamer(machine: Machine) -> Iterator[Row]:
    """What plays ``csi://`` and ``gst://``, and reaches a Jetson's decoder."""
    # Only a Jetson needs it, for csi:// and its decoder.
    uses = ("run",) if release_of(machine) else ()
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        gst = importlib.import_module("gi.repository.Gst")
        gst.init(None)
        elements = gst.ElementFactory
        version = ".".join(map(str, gst.version()[:3]))
    except Exception as error:  # gi raises ValueError for a typelib that is missing.
        yield _gstreamer_of_opencv(first_line(error), uses)
        return
    wanted = ["appsink", "videoconvert"]
    if uses:
        wanted += ["nvarguscamerasrc", "nvvidconv", "nvv4l2decoder"]
    absent = [name for name in wanted if elements.find(name) is None]
    if not absent:
        yield Row("ok", "GStreamer", f"{version}, through PyGObject {gi.__version__}")
        return
    more = " nvidia-l4t-gstreamer nvidia-l4t-camera" if uses else ""
    fix = f"sudo apt-get install -y gstreamer1.0-plugins-base{more}"
    yield Row("fix", "GStreamer", f"{version}, without {', '.join(absent)}", fix, uses)


def _gstreamer_of_opencv(problem: str, uses: tuple[str, ...]) -> Row:
    try:
        cv2 = importlib.import_module("cv2")
        # Built in, or a plugin beside it that loads; the list of backends names it either way.
        through_opencv = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)
    except ImportError:
        through_opencv = False
    if through_opencv:
        return Row("ok", "GStreamer", "through OpenCV, which does not say why something fails")
    fix = (
        "sudo apt-get install -y python3-gi gir1.2-gst-plugins-base-1.0, and use a venv made with "
        "--system-site-packages (other Pythons: pip install PyGObject)"
    )
    return Row("fix", "GStreamer", f"no csi:// and gst://: {problem}", fix, uses)


def opencv_windows(machine: Machine) -> Iterator[Row]:
    information = build_information()
    toolkit = information.get("GUI", "NONE")
    if toolkit != "NONE":
        yield Row("ok", "OpenCV windows", toolkit)
    elif information:
        fix = "pip uninstall -y opencv-python-headless && pip install opencv-python"
        detail = "a headless build: no window; files, the web page and the rest work"
        yield Row("not needed", "OpenCV windows", detail, fix)


def pyav(machine: Machine) -> Iterator[Row]:
    """PyAV, which opens network cameras and files."""
    try:
        av = importlib.import_module("av")
        codec = ".".join(map(str, av.library_versions["libavcodec"]))
        decoders = [name for name in ("h264", "hevc", "mjpeg") if name in av.codecs_available]
    except Exception as error:
        yield replace(_broken("av", error, ("detect", "run", "web")), name="PyAV")
        return
    hardware = [name for name in ("h264_cuvid", "h264_v4l2m2m") if name in av.codecs_available]
    also = f"; hardware decoders {', '.join(hardware)}" if hardware else ""
    found = f"{av.__version__}, libavcodec {codec}, decodes {', '.join(decoders)}{also}"
    yield Row("ok", "PyAV", found)


def onnxruntime(machine: Machine) -> Iterator[Row]:
    try:
        runtime = importlib.import_module("onnxruntime")
        names: list[str] = runtime.get_available_providers()
    except Exception as error:
        yield _broken("onnxruntime", error, ("detect", "run", "web", "build-engine"))
        return
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in names)
    yield Row("ok", "onnxruntime", f"{runtime.__version__}, runs on {providers}")


def other_packages(machine: Machine) -> Iterator[Row]:
    """Looked up, not imported: a dozen web packages, or torch, take seconds to load."""
    for module, (purpose, uses) in _OTHER_PACKAGES.items():
        distribution, extra = PACKAGES[module]
        if importlib.util.find_spec(module) is None:
            detail = f"not installed, for {purpose}"
            yield Row("fix", distribution, detail, install(extra), uses)
        else:
            version = _version(distribution) or "version unknown"
            yield Row("ok", distribution, f"{version}, for {purpose}")
