"""``/dev/video0``, ``v4l2://0``: cameras on this machine, straight from the kernel.

Frames carry the driver's time of capture; of several that wait, the newest is taken.

FFmpeg's v4l2 input, which PyAV has, cannot do what this needs: it waits for a frame inside an ioctl
that nothing can interrupt, gives old frames first, does not say what formats, sizes and rates a
camera offers (it prints them), and has no list of cameras.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import select
import threading
import time
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sources import v4l2_abi as abi
from trt_afdet.stream.sources.base import (
    Pending,
    Picture,
    SourceError,
    SourceInfo,
    SourceRefusedError,
    unpadded,
)
from trt_afdet.stream.sources.v4l2_cameras import Mode, can_capture, list_cameras, modes
from trt_afdet.support.fields import Limit

log = logging.getLogger("trt_afdet.stream")

BUFFERS = 4


@dataclass(frozen=True)
class V4l2Options:
    """Options of ``v4l2://``.

    Attributes:
        format: Four letters, such as ``MJPG`` or ``YUYV``; by default the one that is fastest at
            the size.
        width, height: Pixels; 0 for the camera's setting.
        fps: Frames per second; 0 for the camera's setting.
        timeout: Seconds without a frame.
    """

    format: str = ""
    width: Annotated[int, Limit(least=0)] = 0
    height: Annotated[int, Limit(least=0)] = 0
    fps: Annotated[float, Limit(least=0)] = 0.0
    timeout: Timeout = 5.0

    def __post_init__(self) -> None:
        if self.format and self.format.upper() not in DECODERS:
            raise InvalidValueError(
                "v4l2://: format is none that can be decoded",
                got=self.format,
                hint=f"one of {', '.join(DECODERS)}",
            )
        if bool(self.width) != bool(self.height):
            raise InvalidValueError("v4l2://: width and height go together")


class V4l2Source:
    """The source behind ``v4l2://``."""

    live = True

    def __init__(
        self, device: str, name: str | None = None, options: V4l2Options | None = None
    ) -> None:
        self.name = name or device
        self._device = device
        self._options = options or V4l2Options()
        self.timeout = self._options.timeout
        self._fd = -1
        self._pix = abi.PixFormat()
        self._buffers: list[mmap.mmap] = []
        self._streaming = False
        self._lock = threading.Lock()
        self._wake: tuple[int, int] | None = None

    def open(self) -> SourceInfo:
        self.close()
        with self._lock:
            self._wake = os.pipe()
        try:
            self._fd = os.open(self._device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            info = self._configure()
            self._start()
            return info
        except OSError as error:
            raise self._error(error) from error

    def read(self) -> Pending:
        try:
            while True:
                self._wait()
                buffer = self._newest()
                if buffer is None:
                    continue
                try:
                    pending = self._pending(buffer)
                finally:
                    abi.call(self._fd, abi.QBUF, buffer)
                if pending is not None:
                    return pending
        except OSError as error:
            raise self._error(error) from error

    def interrupt(self) -> None:
        with self._lock:
            if self._wake is not None:
                os.write(self._wake[1], b"x")

    def close(self) -> None:
        if self._streaming:
            # An unplugged camera cannot be stopped any more.
            with contextlib.suppress(OSError):
                abi.call(self._fd, abi.STREAMOFF, ctypes.c_int(abi.CAPTURE))
            self._streaming = False
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []
        with self._lock:
            wake, self._wake = self._wake, None
        for fd in (self._fd, *(wake or ())):
            if fd >= 0:
                os.close(fd)
        self._fd = -1

    def _configure(self) -> SourceInfo:
        capability = abi.Capability()
        if not abi.call(self._fd, abi.QUERYCAP, capability) or not can_capture(capability):
            raise SourceRefusedError(
                f"{self.name}: {self._device} gives no pictures", hint=_others()
            )
        options = self._options
        asked = abi.Format(type=abi.CAPTURE)
        abi.call(self._fd, abi.G_FMT, asked)
        pix = asked.fmt.pix
        if options.width:
            pix.width, pix.height = options.width, options.height
        offered = list(modes(self._fd))
        pix.pixelformat = abi.fourcc(_choose(options, offered, pix))
        pix.bytesperline = pix.sizeimage = 0
        if not abi.call(self._fd, abi.S_FMT, asked):
            raise SourceRefusedError(f"{self.name}: the camera cannot be set up")
        self._pix = pix
        # Drivers answer with the nearest they have.
        got, wanted = abi.fourcc_text(pix.pixelformat), options.format.upper()
        size = (pix.width, pix.height)
        other_size = options.width and size != (options.width, options.height)
        if got not in DECODERS or (wanted and got != wanted) or other_size:
            asked_size = f"{options.width}x{options.height}" if options.width else "that size"
            raise SourceRefusedError(
                f"{self.name}: the camera has no {wanted or got} at {asked_size}",
                hint="it has " + "; ".join(str(mode) for mode in offered[:12]),
            )
        return SourceInfo(pix.width, pix.height, self._set_rate(), got)

    def _set_rate(self) -> float | None:
        parameters = abi.StreamParameters(type=abi.CAPTURE)
        if not abi.call(self._fd, abi.G_PARM, parameters):
            return None
        capture = parameters.parm.capture
        if self._options.fps and capture.capability & abi.TIME_PER_FRAME:
            capture.numerator, capture.denominator = 1000, round(self._options.fps * 1000)
            abi.call(self._fd, abi.S_PARM, parameters)
        if not capture.numerator or not capture.denominator:
            return None
        rate = float(capture.denominator / capture.numerator)
        if self._options.fps and abs(rate - self._options.fps) > 0.02 * self._options.fps:
            log.warning("%s: %g fps instead of %g", self.name, rate, self._options.fps)
        return rate

    def _start(self) -> None:
        request = abi.RequestBuffers(count=BUFFERS, type=abi.CAPTURE, memory=abi.MEMORY_MMAP)
        if not abi.call(self._fd, abi.REQBUFS, request) or not request.count:
            raise SourceRefusedError(f"{self.name}: the camera has no buffers that can be mapped")
        for index in range(request.count):
            buffer = self._buffer(index)
            abi.call(self._fd, abi.QUERYBUF, buffer)
            self._buffers.append(mmap.mmap(self._fd, buffer.length, offset=buffer.m.offset))
            abi.call(self._fd, abi.QBUF, buffer)
        if not abi.call(self._fd, abi.STREAMON, ctypes.c_int(abi.CAPTURE)):
            raise SourceError(f"{self.name}: the camera does not start")
        self._streaming = True

    def _buffer(self, index: int = 0) -> abi.Buffer:
        return abi.Buffer(index=index, type=abi.CAPTURE, memory=abi.MEMORY_MMAP)

    def _wait(self) -> None:
        """Until a frame is there."""
        wake = self._wake
        if wake is None or self._fd < 0:
            raise SourceError(f"{self.name}: not open")
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(wake[0], select.POLLIN)
        events = dict(poll.poll())
        if wake[0] in events:
            raise SourceError(f"{self.name}: reading was interrupted")
        if not events[self._fd] & select.POLLIN:
            raise SourceError(f"{self.name}: the camera is gone")

    def _newest(self) -> abi.Buffer | None:
        """The newest filled buffer; older ones go back unread."""
        newest: abi.Buffer | None = None
        for _ in self._buffers:
            buffer = self._buffer()
            try:
                if not abi.call(self._fd, abi.DQBUF, buffer):
                    break
            except BlockingIOError:
                break
            if newest is not None:
                abi.call(self._fd, abi.QBUF, newest)
            newest = buffer
        return newest

    def _pending(self, buffer: abi.Buffer) -> Pending | None:
        if buffer.flags & abi.FLAG_ERROR or not buffer.bytesused:
            return None
        data = np.frombuffer(self._buffers[buffer.index], np.uint8, count=buffer.bytesused).copy()
        pix, captured = self._pix, time.monotonic()
        if buffer.flags & abi.TIMESTAMP_MASK == abi.TIMESTAMP_MONOTONIC:
            captured = buffer.seconds + buffer.microseconds * 1e-6

        def decode() -> Picture | None:
            image = DECODERS[abi.fourcc_text(pix.pixelformat)](data, pix)
            return None if image is None else Picture(image, None, captured)

        return decode

    def _error(self, error: OSError) -> SourceError:
        if isinstance(error, PermissionError):
            return SourceRefusedError(
                f"{self.name}: no permission to open {self._device}",
                hint='sudo usermod -aG video "$USER", then log in again',
            )
        if error.errno == errno.EBUSY:
            return SourceError(f"{self.name}: {self._device} is in use by another program")
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return SourceError(f"{self.name}: there is no {self._device}", hint=_others())
        return SourceError(f"{self.name}: {error.strerror}")


def _choose(options: V4l2Options, offered: list[Mode], pix: abi.PixFormat) -> str:
    """The pixel format to ask for."""
    if options.format:
        return options.format.upper()
    offered = [mode for mode in offered if mode.format in DECODERS]
    fitting = [mode for mode in offered if (mode.width, mode.height) == (pix.width, pix.height)]
    if not fitting:
        now = abi.fourcc_text(pix.pixelformat)
        return now if now in DECODERS or not offered else offered[0].format

    def rank(mode: Mode) -> tuple[float, bool]:
        fastest = mode.fps[0] if mode.fps else 0.0
        # Prefer undamaged pictures to more speed than requested.
        return (min(fastest, options.fps or 30.0), mode.format not in ("MJPG", "JPEG"))

    return max(fitting, key=rank).format


def _others() -> str:
    found = [f"{camera.device} ({camera.name})" for camera in list_cameras()]
    return f"there is {', '.join(found)}" if found else "no camera is found on this machine"


_Data = npt.NDArray[np.uint8]


def _jpeg(data: _Data, pix: abi.PixFormat) -> _Data | None:
    if data.size < 4 or bytes(data[:2]) != b"\xff\xd8":
        return None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(image, np.uint8)


def _convert(
    data: _Data, pix: abi.PixFormat, channels: int, code: int | None = None
) -> _Data | None:
    """The picture of pixels side by side; without a code they are BGR already."""
    stride = max(pix.bytesperline, pix.width * channels)
    pixels = unpadded(data, pix.width, pix.height, channels, stride)
    if pixels is None:
        return None
    if code is None:
        return pixels.copy()
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), np.uint8)


def _planar(data: _Data, pix: abi.PixFormat, code: int) -> _Data | None:
    stride = max(pix.bytesperline, pix.width)
    rows = pix.height * 3 // 2
    if data.size < stride * rows:
        return None
    planes = data[: stride * rows].reshape(rows, stride)
    return np.asarray(cv2.cvtColor(planes, code)[:, : pix.width], np.uint8).copy()


#: How frames of each pixel format become BGR; None if one is cut off.
DECODERS = {
    "MJPG": _jpeg,
    "JPEG": _jpeg,
    "YUYV": lambda data, pix: _convert(data, pix, 2, cv2.COLOR_YUV2BGR_YUYV),
    "UYVY": lambda data, pix: _convert(data, pix, 2, cv2.COLOR_YUV2BGR_UYVY),
    "NV12": lambda data, pix: _planar(data, pix, cv2.COLOR_YUV2BGR_NV12),
    "YU12": lambda data, pix: _planar(data, pix, cv2.COLOR_YUV2BGR_I420),
    "RGB3": lambda data, pix: _convert(data, pix, 3, cv2.COLOR_RGB2BGR),
    "BGR3": lambda data, pix: _convert(data, pix, 3),
    "GREY": lambda data, pix: _convert(data, pix, 1, cv2.COLOR_GRAY2BGR),
}
