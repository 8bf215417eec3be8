"""Cameras and streams in the network: RTSP, MJPEG over HTTP, HLS, videos on web servers."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from trt_afdet.media.pyav import load_av
from trt_afdet.media.videos import Converter
from trt_afdet.stream.options import Timeout
from trt_afdet.stream.sources.av_reader import AvInput, AvReader
from trt_afdet.stream.sources.base import Pending, Picture, Source, SourceError, SourceInfo
from trt_afdet.stream.sources.http_camera import HttpCamera
from trt_afdet.stream.sources.lag import Clockwork, Lag
from trt_afdet.support.fields import Limit
from trt_afdet.support.threads import interrupted, resolve

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


#: Seconds; whoever skips has read all that had piled up by then.
_CATCHING_UP = 3.0


@dataclass(frozen=True)
class RtspOptions:
    """Options of ``rtsp://`` and ``rtsps://``.

    Attributes:
        transport: ``tcp``, ``udp``, ``multicast`` or ``http``. UDP has a little less latency and
            loses frames in a busy network.
        user, password: Instead of those in the address; plain, not encoded.
        connect_timeout, timeout: Seconds without an answer, or without a frame.
        max_lag: Seconds; one that falls further behind decodes key frames only until it is back.
        verify: Whether the camera's certificate must be valid (``rtsps``).
        decoder: ``cpu``; ``nvdec`` for an NVIDIA GPU, on Jetson through GStreamer.
        device: Number of that GPU.
        threads: Of the decoder on the CPU; 0 for two.
    """

    transport: Literal["tcp", "udp", "multicast", "http"] = "tcp"
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    connect_timeout: Timeout = 10.0
    timeout: Timeout = 5.0
    max_lag: Timeout = 1.0
    verify: bool = False
    decoder: Literal["cpu", "nvdec"] = "cpu"
    device: Annotated[int, Limit(least=0)] = 0
    threads: Annotated[int, Limit(least=0)] = 0


@dataclass(frozen=True)
class HttpOptions:
    """Options of ``http://`` and ``https://``.

    Attributes:
        user, password: Instead of those in the address; plain, not encoded.
        connect_timeout, timeout: Seconds without an answer, or without a frame.
        max_lag: Seconds; one that falls further behind decodes key frames only until it is back.
        verify: Whether the server's certificate must be valid (``https``).
        live: ``yes`` for cameras, ``no`` for videos, which are read frame by frame to their end;
            ``auto`` goes by the suffix.
        snapshot: Pictures a second, where the address gives one picture at a time.
        threads: Of the decoder; 0 to choose.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    connect_timeout: Timeout = 10.0
    timeout: Timeout = 5.0
    max_lag: Timeout = 1.0
    verify: bool = True
    live: Literal["auto", "yes", "no"] = "auto"
    snapshot: Annotated[float, Limit(least=0.001)] = 2.0
    threads: Annotated[int, Limit(least=0)] = 0


@dataclass(frozen=True)
class StreamOptions:
    """Options of ``udp://``, ``rtp://``, ``srt://``, ``rtmp://``, ``tcp://`` and of ``.sdp`` files.

    Attributes:
        format: FFmpeg's name of the container, such as ``mpegts`` or ``h264``; empty to find out.
        connect_timeout, timeout: Seconds without an answer, or without a frame.
        max_lag: Seconds; one that falls further behind decodes key frames only until it is back.
        threads: Of the decoder; 0 for two.
    """

    format: str = ""
    connect_timeout: Timeout = 10.0
    timeout: Timeout = 5.0
    max_lag: Timeout = 1.0
    threads: Annotated[int, Limit(least=0)] = 0


def stream_input(address: str, name: str, options: StreamOptions) -> AvInput:
    """What FFmpeg is asked for a stream that is neither RTSP nor HTTP, or for an SDP file."""
    file = "://" not in address
    protocols = "file,rtp,srtp,udp,crypto" if file else "udp,rtp,srtp,srt,rtmp,rtmps,tcp,tls,crypto"
    return AvInput(
        f"file:{address}" if file else address,
        name,
        {
            "protocol_whitelist": protocols,
            "analyzeduration": "1000000",
            "rw_timeout": str(int(1e6 * max(options.connect_timeout, options.timeout))),
        },
        format=options.format or ("sdp" if file else None),
        connect_timeout=options.connect_timeout,
        timeout=options.timeout,
        live=True,
        threads=options.threads,
    )


def with_credentials(address: str, user: str, password: str) -> str:
    """The address with user and password put into it, encoded."""
    if not user and not password:
        return address
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def rtsp_input(address: str, name: str, options: RtspOptions) -> AvInput:
    """What FFmpeg is asked for an RTSP camera."""
    transport = {"multicast": "udp_multicast"}.get(options.transport, options.transport)
    return AvInput(
        with_credentials(address, options.user, options.password),
        name,
        {
            "rtsp_transport": transport,
            "allowed_media_types": "video",
            # Some cameras never say how fast they are: half a second is enough to find out.
            "analyzeduration": "500000",
            "probesize": "1000000",
            "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto",
            # Of its socket, also where no timeout of PyAV is under way, such as while closing.
            "timeout": str(int(1e6 * max(options.connect_timeout, options.timeout))),
            **_certificates(options.verify),
        },
        connect_timeout=options.connect_timeout,
        timeout=options.timeout,
        live=True,
        threads=options.threads,
        gpu=options.device if options.decoder == "nvdec" else None,
    )


def http_input(address: str, name: str, options: HttpOptions, *, live: bool) -> AvInput:
    """What FFmpeg is asked for an address of a web server."""
    container = {
        # A playlist may name any address, but must not read files of this machine.
        "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto,data",
        "rw_timeout": str(int(1e6 * max(options.connect_timeout, options.timeout))),
        **_certificates(options.verify),
    }
    if live:
        container |= {"analyzeduration": "1000000"}
    return AvInput(
        with_credentials(address, options.user, options.password),
        name,
        container,
        connect_timeout=options.connect_timeout,
        timeout=options.timeout,
        live=live,
        threads=options.threads,
    )


def _certificates(verify: bool) -> dict[str, str]:
    if not verify:
        return {"tls_verify": "0"}
    paths = ssl.get_default_verify_paths()
    return {"tls_verify": "1", **({"ca_file": paths.cafile} if paths.cafile else {})}


def _look_up(what: AvInput) -> None:
    """Finds the host first: FFmpeg cannot be interrupted while it does."""
    host = urlsplit(what.address).hostname if "://" in what.address else None
    try:
        if host and not what.address.startswith(("udp", "rtp:")):
            resolve(host)
    except OSError:
        raise SourceError(f"{what.name}: cannot be reached - is the host's name right?") from None
    if interrupted():
        raise SourceError("reading was interrupted")


class NetworkSource:
    """A source that FFmpeg reads.

    Args:
        what: The stream.
        max_lag: See the options.
    """

    def __init__(self, what: AvInput, max_lag: float) -> None:
        self.name = what.name
        self.live = what.live
        self.connect_timeout = what.connect_timeout
        self.timeout = what.timeout
        self._what = what
        self._reader = AvReader(what)
        self._max_lag = max_lag
        self._frames: Iterator[Pending] = iter(())

    def open(self) -> SourceInfo:
        _look_up(self._what)
        info = self._reader.open()
        self._convert = Converter()
        if not self._what.live:
            self._frames = self._every_frame()
        elif self._reader.format.startswith("hls"):
            self._frames = self._paced()
        elif self._reader.codec == "mjpeg":
            self._frames = self._still_pictures()
        else:
            self._frames = self._newest()
        return info

    def read(self) -> Pending | None:
        pending = next(self._frames, None)
        if pending is None and self._what.live and not self._may_end:
            raise SourceError(f"{self._what.name}: the stream broke off")
        return pending

    @property
    def _may_end(self) -> bool:
        """Whether it is a playlist of something that is over; cameras end only if they are lost."""
        return self._reader.format.startswith("hls") and self._reader.duration is not None

    def interrupt(self) -> None:
        """FFmpeg is interrupted by the thread that is in it."""

    def close(self) -> None:
        # The iterator and this hold each other: megabytes would wait for the garbage collector.
        self._frames = iter(())
        self._reader.close()

    def _pending(
        self, frame: VideoFrame, captured: float | None, position: float | None = None
    ) -> Pending:
        return lambda: Picture(self._convert(frame), position, captured)

    def _newest(self) -> Iterator[Pending]:
        """Every frame; while frames are late, key frames only."""
        lag = Lag()
        skipping = False
        since = 0.0
        for packet in self._reader.packets():
            now = time.monotonic()
            moment = packet.pts if packet.dts is None else packet.dts
            behind = 0.0 if moment is None else lag.behind(now, float(moment * packet.time_base))
            # What lies between two key frames can only be decoded from the first of them on.
            caught_up = packet.is_keyframe and behind < self._max_lag / 2
            if (skipping and caught_up) or (not skipping and behind > self._max_lag):
                skipping, since = not skipping, now
                self._reader.skip_to_keyframes(skipping)
            elif skipping and now - since > _CATCHING_UP:
                # Nothing was left to catch up with: the server had sent its first frames too early.
                lag.restart()
                since = now
            for frame in self._reader.decode(packet):
                yield self._pending(frame, now - behind)

    def _still_pictures(self) -> Iterator[Pending]:
        """Packets of a picture each: only a frame that is read is decoded."""
        av = load_av()
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.thread_count = 1

        def decode(packet: Any, captured: float) -> Picture | None:
            try:
                frames = decoder.decode(packet)
            except av.error.FFmpegError as error:
                self._reader.note_damage(error)
                return None
            if not frames or frames[-1].is_corrupt:
                return None
            self._reader.note_good()
            return Picture(self._convert(frames[-1]), None, captured)

        for packet in self._reader.packets():
            if packet.size:
                now = time.monotonic()
                yield lambda packet=packet, now=now: decode(packet, now)  # type: ignore[misc]

    def _paced(self) -> Iterator[Pending]:
        """Frames of a stream that comes in bursts, at the pace at which they were filmed."""
        clockwork = Clockwork()
        for packet in self._reader.packets():
            for frame in self._reader.decode(packet):
                if frame.time is not None:
                    time.sleep(clockwork.wait(time.monotonic(), frame.time))
                yield self._pending(frame, time.monotonic())

    def _every_frame(self) -> Iterator[Pending]:
        start: float | None = None
        for packet in self._reader.packets():
            for frame in self._reader.decode(packet):
                moment = frame.time or 0.0
                start = moment if start is None else start
                yield self._pending(frame, None, max(0.0, moment - start))


def rtsp_source(address: str, name: str, options: RtspOptions) -> NetworkSource:
    """The source behind ``rtsp://`` and ``rtsps://``."""
    return NetworkSource(rtsp_input(address, name, options), options.max_lag)


def stream_source(address: str, name: str, options: StreamOptions) -> NetworkSource:
    """The source behind :class:`StreamOptions`."""
    return NetworkSource(stream_input(address, name, options), options.max_lag)


def http_source(address: str, name: str, options: HttpOptions, *, live: bool) -> Source:
    """The source behind ``http://`` and ``https://``."""
    what = http_input(address, name, options, live=live)
    by_ffmpeg = NetworkSource(what, options.max_lag)
    playlist = urlsplit(address).path.lower().endswith((".m3u8", ".m3u", ".mpd"))
    if playlist or not live:
        return by_ffmpeg
    return HttpCamera(
        what.address,
        name,
        connect_timeout=options.connect_timeout,
        timeout=options.timeout,
        verify=options.verify,
        snapshot=options.snapshot,
        other=by_ffmpeg,
    )
