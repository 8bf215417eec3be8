"""The options of cameras and streams in the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from trt_afdet.stream.options import Timeout
from trt_afdet.support.fields import Limit


@dataclass(frozen=True)
class NetworkOptions:
    """The options that all of them have.

    Attributes:
        connect_timeout, timeout: Seconds without an answer, or without a frame.
        max_lag: Seconds; one that falls further behind decodes key frames only until it is back.
        threads: Of the decoder on the CPU; 0 to choose, which is two for a live stream.
    """

    connect_timeout: Timeout = 10.0
    timeout: Timeout = 5.0
    max_lag: Timeout = 1.0
    threads: Annotated[int, Limit(least=0)] = 0

    @property
    def microseconds(self) -> str:
        """The longer of the two timeouts, as FFmpeg wants it."""
        return str(int(1e6 * max(self.connect_timeout, self.timeout)))


@dataclass(frozen=True)
class StreamOptions(NetworkOptions):
    """Options of ``udp://``, ``rtp://``, ``srt://``, ``rtmp://``, ``tcp://`` and of ``.sdp`` files.

    Attributes:
        format: FFmpeg's name of the container, such as ``mpegts`` or ``h264``; empty to find out.
    """

    format: str = ""


@dataclass(frozen=True)
class _ServerOptions(NetworkOptions):
    """The options of servers that ask for a user.

    Attributes:
        user, password: Instead of those in the address; plain, not encoded.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def with_credentials(self, address: str) -> str:
        """The address with user and password put into it, encoded."""
        if not self.user and not self.password:
            return address
        parts = urlsplit(address)
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        netloc = f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=netloc))


@dataclass(frozen=True)
class RtspOptions(_ServerOptions):
    """Options of ``rtsp://`` and ``rtsps://``.

    Attributes:
        transport: ``tcp``, ``udp``, ``multicast`` or ``http``. UDP has a little less latency and
            loses frames in a busy network.
        verify: Whether the camera's certificate must be valid (``rtsps``).
        decoder: ``cpu``; ``nvdec`` for an NVIDIA GPU, on Jetson through GStreamer.
        device: Number of that GPU.
    """

    transport: Literal["tcp", "udp", "multicast", "http"] = "tcp"
    verify: bool = False
    decoder: Literal["cpu", "nvdec"] = "cpu"
    device: Annotated[int, Limit(least=0)] = 0


@dataclass(frozen=True)
class HttpOptions(_ServerOptions):
    """Options of ``http://`` and ``https://``.

    Attributes:
        verify: Whether the server's certificate must be valid (``https``).
        live: ``yes`` for cameras, ``no`` for videos, which are read frame by frame to their end;
            ``auto`` goes by the suffix.
        snapshot: Pictures a second, where the address gives one picture at a time.
    """

    verify: bool = True
    live: Literal["auto", "yes", "no"] = "auto"
    snapshot: Annotated[float, Limit(least=0.001)] = 2.0
