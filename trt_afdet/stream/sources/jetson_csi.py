"""``csi://0``: cameras on the ribbon of a Jetson, through ``nvarguscamerasrc``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sources.base import Source
from trt_afdet.stream.sources.gstreamer import GstOptions, gst_source
from trt_afdet.support.fields import Limit

Flip = Literal[
    "none", "counterclockwise", "rotate-180", "clockwise", "horizontal-flip",
    "upper-right-diagonal", "vertical-flip", "upper-left-diagonal",
]  # fmt: skip
FLIPS: tuple[Flip, ...] = get_args(Flip)


@dataclass(frozen=True)
class CsiOptions:
    """Options of ``csi://``.

    Attributes:
        width, height, fps: Requested of the sensor.
        out_width, out_height: Size after scaling in hardware; 0 for no scaling.
        flip: How the picture is turned; one of :data:`FLIPS`.
        sensor_mode: Number of a mode of the sensor; -1 to choose by size and rate.
        connect_timeout, timeout: Seconds without a first frame, or without the next one.
        backend: See :class:`GstOptions`.
    """

    width: Annotated[int, Limit(least=16)] = 1920
    height: Annotated[int, Limit(least=16)] = 1080
    fps: Annotated[int, Limit(least=1)] = 30
    out_width: Annotated[int, Limit(least=0)] = 0
    out_height: Annotated[int, Limit(least=0)] = 0
    flip: Flip = "none"
    sensor_mode: Annotated[int, Limit(least=-1)] = -1
    connect_timeout: Timeout = 15.0
    timeout: Timeout = 5.0
    backend: Literal["auto", "gi", "opencv"] = "auto"


def csi_pipeline(number: int, options: CsiOptions) -> str:
    """The pipeline of a camera, up to pictures in ordinary memory."""
    size = ""
    if options.out_width and options.out_height:
        size = f",width={options.out_width},height={options.out_height}"
    return (
        f"nvarguscamerasrc sensor-id={number} sensor-mode={options.sensor_mode} ! "
        f"video/x-raw(memory:NVMM),format=NV12,width={options.width},height={options.height},"
        f"framerate={options.fps}/1 ! nvvidconv flip-method={FLIPS.index(options.flip)} ! "
        f"video/x-raw,format=BGRx{size}"
    )


def csi_source(number: int, name: str, options: CsiOptions) -> Source:
    """The source behind ``csi://``."""
    gst = GstOptions(True, options.connect_timeout, options.timeout, options.backend)
    return gst_source(csi_pipeline(number, options), name, gst)
