"""Lists the cameras of this machine and their modes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_afdet.stream.sources import v4l2_abi as abi

#: Sizes that are listed of cameras which offer any size within limits.
COMMON = ((640, 480), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160))


@dataclass(frozen=True)
class Mode:
    """A picture format at a size in pixels."""

    format: str  # Four letters, MJPG or YUYV.
    width: int
    height: int
    fps: tuple[float, ...]  # Rates offered, highest first; empty if the camera does not say.

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.fps)
        return f"{self.format} {self.width}x{self.height}" + (f" at {rates} fps" if rates else "")


@dataclass(frozen=True)
class Camera:
    """A camera."""

    device: str  # /dev/video0.
    name: str  # As its driver calls it.
    bus: str  # Where it is plugged in.
    modes: tuple[Mode, ...]


def list_cameras(folder: str = "/dev") -> list[Camera]:
    """The cameras that this user may open, by number, without devices that give no pictures."""
    names = [path.name[5:] for path in Path(folder).glob("video*") if path.name[5:].isdecimal()]
    cameras = (_look_at(f"{folder}/video{int(number)}") for number in sorted(names, key=int))
    return [camera for camera in cameras if camera is not None]


def _look_at(device: str) -> Camera | None:
    try:
        fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        capability = abi.Capability()
        if not abi.call(fd, abi.QUERYCAP, capability) or not can_capture(capability):
            return None
        texts = (capability.card, capability.bus_info)
        name, bus = (bytes(text).decode("utf-8", "replace") for text in texts)
        return Camera(device, name, bus, tuple(modes(fd)))
    except OSError:
        return None
    finally:
        os.close(fd)


def can_capture(capability: abi.Capability) -> bool:
    """Whether a device gives pictures, in buffers that can be mapped."""
    # Where the kernel says it, what this device can do, not all devices of its driver together.
    of_device = bool(capability.capabilities & abi.CAP_DEVICE_CAPS)
    can = capability.device_caps if of_device else capability.capabilities
    return bool(can & abi.CAP_CAPTURE and can & abi.CAP_STREAMING)


def modes(fd: int) -> Iterator[Mode]:
    """The modes of an open camera, in its order."""
    for description in _items(fd, abi.ENUM_FMT, abi.FormatDescription(type=abi.CAPTURE)):
        number = description.pixelformat
        for width, height in list(_sizes(fd, number)):
            yield Mode(abi.fourcc_text(number), width, height, _rates(fd, number, width, height))


def _sizes(fd: int, pixel_format: int) -> Iterator[tuple[int, int]]:
    for size in _items(fd, abi.ENUM_FRAMESIZES, abi.FrameSize(pixel_format=pixel_format)):
        if size.type == abi.DISCRETE:
            yield size.values[0], size.values[1]
            continue
        left, right, step_x, low, high, step_y = size.values
        for width, height in COMMON:
            inside = left <= width <= right and low <= height <= high
            if inside and not (width - left) % (step_x or 1) and not (height - low) % (step_y or 1):
                yield width, height
        if (right, high) not in COMMON:
            yield right, high


def _rates(fd: int, pixel_format: int, width: int, height: int) -> tuple[float, ...]:
    asked = abi.FrameInterval(pixel_format=pixel_format, width=width, height=height)
    found: set[float] = set()
    for interval in _items(fd, abi.ENUM_FRAMEINTERVALS, asked):
        # Of a range of intervals, the shortest and the longest.
        pairs = interval.values[:2] if interval.type == abi.DISCRETE else interval.values[:4]
        for above, below in zip(pairs[::2], pairs[1::2], strict=True):
            if above and below:
                found.add(round(below / above, 3))
    return tuple(sorted(found, reverse=True))


def _items(fd: int, request: int, asked: ctypes.Structure) -> Iterator[ctypes.Structure]:
    """Goes through a list of the driver's; each item is new."""
    # A broken driver might never end its list; no camera has so many.
    for index in range(1000):
        item = type(asked).from_buffer_copy(asked)
        item.index = index
        if not abi.call(fd, request, item):
            return
        yield item
        # Ranges stand alone; their list has no second item.
        if isinstance(item, (abi.FrameSize, abi.FrameInterval)) and item.type != abi.DISCRETE:
            return
