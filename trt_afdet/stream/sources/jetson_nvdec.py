"""Decoding in the hardware of a Jetson: GStreamer's ``nvv4l2decoder``.

Elsewhere FFmpeg reaches NVDEC; on a Jetson it cannot.
"""

from __future__ import annotations

from pathlib import Path

from trt_afdet.stream.sources.base import Source
from trt_afdet.stream.sources.gstreamer import GstOptions, gst_source, quoted
from trt_afdet.stream.sources.rtsp_http import RtspOptions, with_credentials

# decodebin takes the decoder of the highest rank: nvv4l2decoder, whatever the codec is by now.
_DECODE = "decodebin ! nvvidconv ! video/x-raw,format=BGRx"
_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "multicast": "udp-mcast", "http": "http"}


def is_jetson() -> bool:
    """Whether this machine is a Jetson."""
    return Path("/etc/nv_tegra_release").exists()


def rtsp_pipeline(address: str, options: RtspOptions) -> str:
    """The pipeline of an RTSP camera, up to pictures in ordinary memory."""
    address = with_credentials(address, options.user, options.password)
    checks = "validate-all" if options.verify else "0"
    return (
        f"rtspsrc location={quoted(address)} protocols={_PROTOCOLS[options.transport]} "
        f"latency=100 drop-on-latency=true tls-validation-flags={checks} "
        f"tcp-timeout={int(options.timeout * 1e6)} ! {_DECODE}"
    )


def file_pipeline(path: str) -> str:
    """The pipeline of a video file, up to pictures in ordinary memory."""
    return f"filesrc location={quoted(path)} ! {_DECODE}"


def jetson_rtsp_source(address: str, name: str, options: RtspOptions) -> Source:
    """``rtsp://`` with ``decoder=nvdec`` on a Jetson."""
    gst = GstOptions(True, options.connect_timeout, options.timeout)
    return gst_source(rtsp_pipeline(address, options), name, gst)


def jetson_file_source(path: str, name: str) -> Source:
    """A video file with ``decoder=nvdec`` on a Jetson."""
    return gst_source(file_pipeline(path), name, GstOptions(live=False))
