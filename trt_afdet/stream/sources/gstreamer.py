"""``gst://PIPELINE``: whatever GStreamer can play.

``gst://v4l2src device=/dev/video2 ! jpegdec``: conversion to BGR and an ``appsink`` are put behind
it; an ``appsink`` in it is removed. It runs in PyGObject's GStreamer, which can say
what is wrong, or in OpenCV's, where OpenCV was built with it (the wheels are not).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from trt_afdet.errors import MissingDependencyError
from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sources.base import (
    LoginRefusedError,
    Pending,
    Picture,
    Source,
    SourceError,
    SourceInfo,
    UnusableSourceError,
    unpadded,
)
from trt_afdet.support.redact import redact
from trt_afdet.support.threads import interrupted

_APPSINK = re.compile(r"!\s*appsink\b[^!]*$")


@dataclass(frozen=True)
class GstOptions:
    """Options of ``gst://``.

    Attributes:
        live: Whether it plays a camera; otherwise every frame is read, to the end.
        connect_timeout, timeout: Seconds without a first frame, or without the next one.
        backend: ``gi`` (PyGObject), ``opencv``, or ``auto`` for the first of these there is.
    """

    live: bool = True
    connect_timeout: Timeout = 10.0
    timeout: Timeout = 5.0
    backend: Literal["auto", "gi", "opencv"] = "auto"


def full_pipeline(pipeline: str, *, live: bool) -> str:
    """The pipeline with the end that frames are taken from."""
    body = _APPSINK.sub("", pipeline.strip()).rstrip("! \t\n")
    keep = "max-buffers=1 drop=true" if live else "max-buffers=2 drop=false"
    caps = "video/x-raw,format=BGR"
    return f"{body} ! videoconvert ! {caps} ! appsink name=afdet sync=false {keep}"


def quoted(value: str) -> str:
    """A value of a property in a pipeline's text."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def gst_source(pipeline: str, name: str, options: GstOptions) -> Source:
    """The source behind ``gst://``; PyGObject's if possible, because OpenCV reports no reasons."""
    kind: type[GiSource | OpencvSource] = GiSource
    if options.backend == "opencv":
        kind = OpencvSource
    elif options.backend == "auto" and opencv_has_gstreamer():
        try:
            load_gst()
        except MissingDependencyError:
            kind = OpencvSource
    return kind(full_pipeline(pipeline, live=options.live), name, options)


def opencv_has_gstreamer() -> bool:
    """Whether OpenCV was built with GStreamer."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


class _GstSource:
    def __init__(self, pipeline: str, name: str, options: GstOptions) -> None:
        self.name = name
        self.live = options.live
        self.connect_timeout = options.connect_timeout
        self.timeout = options.timeout
        self._text = pipeline

    def interrupt(self) -> None:
        """Waiting ends with the thread's interruption, or OpenCV's own timeouts."""


class OpencvSource(_GstSource):
    """A pipeline in OpenCV."""

    _capture: cv2.VideoCapture | None = None

    def open(self) -> SourceInfo:
        if not opencv_has_gstreamer():
            raise MissingDependencyError(
                "this OpenCV was built without GStreamer", hint="use backend=gi"
            )
        limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            int(self.connect_timeout * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            int(self.timeout * 1000),
        ]
        capture = self._capture = cv2.VideoCapture(self._text, cv2.CAP_GSTREAMER, limits)
        if not capture.isOpened():
            raise SourceError(
                f"{self.name}: GStreamer cannot play it", hint="GST_DEBUG=3 makes it say why"
            )
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        return SourceInfo(
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            rate if 0 < rate < 1000 else None,
            "GStreamer",
        )

    def read(self) -> Picture | None:
        assert self._capture is not None
        ok, image = self._capture.read()
        if ok:
            position = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            return Picture(np.asarray(image, np.uint8), None if self.live else max(0.0, position))
        if self.live:
            raise SourceError(f"{self.name}: the pipeline gives no more frames")
        return None

    def close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


def load_gst() -> Any:
    """GStreamer's bindings, initialised; MissingDependencyError if they cannot be imported."""
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        from gi.repository import Gst, GstApp  # noqa: F401  # GstApp gives appsinks their methods.
    except (ImportError, ValueError) as error:
        raise MissingDependencyError(
            "GStreamer's Python bindings cannot be imported",
            got=error,
            hint="apt install python3-gi gir1.2-gst-plugins-base-1.0, and a Python that sees them",
        ) from error
    Gst.init(None)
    return Gst


class GiSource(_GstSource):
    """A pipeline in PyGObject's GStreamer."""

    #: Seconds between looks at the messages while no frame comes.
    STEP = 0.1
    _gst: Any = None
    _pipeline: Any = None
    _sink: Any = None
    _first: Any = None

    def open(self) -> SourceInfo:
        gst = self._gst = load_gst()
        try:
            self._pipeline = gst.parse_launch(self._text)
        except Exception as error:
            text = redact(str(getattr(error, "message", error)))
            raise UnusableSourceError(f"{self.name}: not a pipeline", got=text) from None
        self._sink = self._pipeline.get_by_name("afdet")
        self._pipeline.set_state(gst.State.PLAYING)
        self._first = self._pull()
        if self._first is None:
            raise SourceError(f"{self.name}: the pipeline ended without a frame")
        caps = self._first.get_caps().get_structure(0)
        known, above, below = caps.get_fraction("framerate")
        fps = above / below if known and above else None
        return SourceInfo(caps.get_value("width"), caps.get_value("height"), fps, "GStreamer")

    def read(self) -> Pending | None:
        sample, self._first = self._first, None
        if sample is None:
            sample = self._pull()
        if sample is None:
            if self.live:
                raise SourceError(f"{self.name}: the pipeline ended")
            return None
        captured = time.monotonic() - self._age(sample)
        return lambda: self._picture(sample, captured)

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        self._sink = self._first = None
        if pipeline is not None:
            pipeline.set_state(self._gst.State.NULL)

    def _pull(self) -> Any:
        """The next sample; None at the end."""
        gst = self._gst
        bus = self._pipeline.get_bus()
        while not interrupted():
            sample = self._sink.try_pull_sample(int(self.STEP * gst.SECOND))
            if sample is not None:
                return sample
            message = bus.pop_filtered(gst.MessageType.ERROR)
            if message is not None:
                raise self._error(message)
            if self._sink.is_eos():
                return None
        raise SourceError("reading was interrupted")

    def _error(self, message: Any) -> SourceError:
        gst = self._gst
        error, _ = message.parse_error()
        text = redact(f"{message.src.get_name()}: {error.message}")
        refused = error.matches(gst.ResourceError.quark(), gst.ResourceError.NOT_AUTHORIZED)
        kind = LoginRefusedError if refused else SourceError
        return kind(f"{self.name}: {text}")

    def _age(self, sample: Any) -> float:
        """Seconds since a live frame was captured."""
        gst = self._gst
        stamp = sample.get_buffer().pts
        clock = self._pipeline.get_clock()
        if not self.live or stamp == gst.CLOCK_TIME_NONE or clock is None:
            return 0.0
        running = sample.get_segment().to_running_time(gst.Format.TIME, stamp)
        age = (clock.get_time() - self._pipeline.get_base_time() - running) / gst.SECOND
        # Pipelines whose timestamps are not of their clock would give anything.
        return age if 0.0 <= age <= self.timeout else 0.0

    def _picture(self, sample: Any, captured: float) -> Picture | None:
        gst = self._gst
        caps = sample.get_caps().get_structure(0)
        buffer = sample.get_buffer()
        ok, mapped = buffer.map(gst.MapFlags.READ)
        if not ok:
            raise SourceError(f"{self.name}: a frame cannot be read")
        try:
            width, height = caps.get_value("width"), caps.get_value("height")
            # Rows begin at multiples of four bytes.
            pixels = unpadded(mapped.data, width, height, 3, (width * 3 + 3) // 4 * 4)
            image = None if pixels is None else pixels.copy()
        finally:
            buffer.unmap(mapped)
        if image is None:
            return None
        if self.live:
            return Picture(image, None, captured)
        stamp = buffer.pts
        return Picture(image, 0.0 if stamp == gst.CLOCK_TIME_NONE else stamp / gst.SECOND)
