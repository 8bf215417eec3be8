"""The hardware of a Jetson, through GStreamer: cameras on its ribbon, and its video decoder.

``csi://0`` is ``nvarguscamerasrc``. Elsewhere FFmpeg reaches NVDEC; on a Jetson it cannot, but
``nvv4l2decoder`` does. The pipelines here go up to pictures in ordinary memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sources.base import Source
from trt_afdet.stream.sources.gstreamer import GstOptions, gst_source, quoted
from trt_afdet.stream.sources.network_options import RtspOptions
from trt_afdet.support.fields import Limit

Flip = Literal[
    "none", "counterclockwise", "rotate-180", "clockwise", "horizontal-flip",
    "upper-right-diagonal", "vertical-flip", "upper-left-diagonal",
]  # fmt: skip

# decodebin takes the decoder of the highest rank: nvv4l2decoder, whatever the codec is by now.
_DECODE = "decodebin ! nvvidconv ! video/x-raw,format=BGRx"
_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "multicast": "udp-mcast", "http": "http"}


@dataclass(frozen=True)
class CsiOptions:
    """Options of ``csi://``.

    Attributes:
        width, height, fps: Requested of the sensor.
        out_width, out_height: Size after scaling in hardware; 0 for no scaling.
        flip: How the picture is turned; one of :data:`Flip`.
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


def csi_pipeline(number: str, options: CsiOptions) -> str:
    """The pipeline of a camera on the ribbon."""
    size = ""
    if options.out_width and options.out_height:
        size = f",width={options.out_width},height={options.out_height}"
    return (
        f"nvarguscamerasrc sensor-id={number} sensor-mode={options.sensor_mode} ! "
        f"video/x-raw(memory:NVMM),format=NV12,width={options.width},height={options.height},"
        f"framerate={options.fps}/1 ! nvvidconv flip-method={get_args(Flip).index(options.flip)} ! "
        f"video/x-raw,format=BGRx{size}"
    )


def rtsp_pipeline(address: str, options: RtspOptions) -> str:
    """The pipeline of an RTSP camera."""
    checks = "validate-all" if options.verify else "0"
    return (
        f"rtspsrc location={quoted(options.with_credentials(address))} "
        f"protocols={_PROTOCOLS[options.transport]} "
        f"latency=100 drop-on-latency=true tls-validation-flags={checks} "
        f"tcp-timeout={int(options.timeout * 1e6)} ! {_DECODE}"
    )


def file_pipeline(path: str) -> str:
    """The pipeline of a video file."""
    return f"filesrc location={quoted(path)} ! {_DECODE}"


def csi_source(number: str, name: str, options: CsiOptions) -> Source:
    """The source behind ``csi://``."""
    gst = GstOptions(True, options.connect_timeout, options.timeout, options.backend)
    return gst_source(csi_pipeline(number, options), name, gst)


def jetson_rtsp_source(address: str, name: str, options: RtspOptions) -> Source:
    """``rtsp://`` with ``decoder=nvdec`` on a Jetson."""
    gst = GstOptions(True, options.connect_timeout, options.timeout)
    return gst_source(rtsp_pipeline(address, options), name, gst)


def jetson_file_source(path: str, name: str) -> Source:
    """A video file with ``decoder=nvdec`` on a Jetson."""
    return gst_source(file_pipeline(path), name, GstOptions(live=False))


def is_jetson() -> bool:
    """Whether this machine is a Jetson."""
    return Path("/etc/nv_tegra_release").exists()
