"""Cameras and streams in the network: RTSP, MJPEG over HTTP, HLS, videos on web servers."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trt_afdet.media.videos import Converter
from trt_afdet.stream.sources.av_reader import AvInput, AvReader, JpegDecoder
from trt_afdet.stream.sources.base import Pending, Picture, Source, SourceError, SourceInfo
from trt_afdet.stream.sources.http_camera import HttpCamera
from trt_afdet.stream.sources.network_options import (
    HttpOptions,
    NetworkOptions,
    RtspOptions,
    StreamOptions,
)
from trt_afdet.support.threads import interrupted, resolve

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

#: Seconds; whoever skips has read all that had piled up by then.
_CATCHING_UP = 3.0
#: Clocks of cameras are off by less than this share.
_DRIFT = 5e-4
#: Seconds; a larger step of a stream's clock, or one so far back, starts it anew.
_JUMP = 10.0
_BACK = 0.5


class Lag:
    """How much later frames arrive than the promptest one did.

    A stream that is read too slowly piles up in buffers: its frames then arrive later and later
    against their own timestamps.
    """

    def __init__(self) -> None:
        self._prompt: float | None = None
        self._last = 0.0
        self._timestamp = 0.0

    def behind(self, now: float, timestamp: float) -> float:
        """Seconds by which a frame is late; ``timestamp``: when the stream says it was captured."""
        offset = now - timestamp
        back = self._timestamp - timestamp > _BACK
        if self._prompt is None or back or abs(offset - self._prompt) > _JUMP:
            self._prompt = offset
        else:
            # Grows as the camera's clock may: otherwise a slow clock looks like lag in a week.
            self._prompt = min(offset, self._prompt + (now - self._last) * _DRIFT)
        self._last, self._timestamp = now, timestamp
        return offset - self._prompt


class Clockwork:
    """When frames are due that arrive before their time."""

    #: Seconds; one that is later than this starts the clock anew, it will not catch up.
    MOST_LATE = 1.0
    #: Seconds; one that is earlier comes after a gap in the timestamps.
    MOST_EARLY = 4.0

    def __init__(self) -> None:
        self._start: float | None = None

    def wait(self, now: float, timestamp: float) -> float:
        """Seconds until a frame is due, at least 0; ``timestamp`` as for :class:`Lag`."""
        if self._start is not None:
            early = self._start + timestamp - now
            if -self.MOST_LATE < early < self.MOST_EARLY:
                return max(0.0, early)
        self._start = now - timestamp
        return 0.0


class NetworkSource:
    """A source that FFmpeg reads."""

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
        self._look_up()
        info = self._reader.open()
        self._convert = Converter()
        if not self.live:
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
        # A playlist may be of something that is over; cameras end only if they are lost.
        over = self._reader.format.startswith("hls") and self._reader.duration is not None
        if pending is None and self.live and not over:
            raise SourceError(f"{self.name}: the stream broke off")
        return pending

    def interrupt(self) -> None:
        """FFmpeg is interrupted by the thread that is in it."""

    def close(self) -> None:
        # The iterator and this hold each other: megabytes would wait for the garbage collector.
        self._frames = iter(())
        self._reader.close()

    def _look_up(self) -> None:
        """Finds the host first: FFmpeg cannot be interrupted while it does."""
        address = self._what.address
        host = urlsplit(address).hostname if "://" in address else None
        try:
            if host and not address.startswith(("udp", "rtp:")):
                resolve(host)
        except OSError:
            raise SourceError(
                f"{self.name}: cannot be reached - is the host's name right?"
            ) from None
        if interrupted():
            raise SourceError("reading was interrupted")

    def _pending(
        self, frame: VideoFrame, captured: float | None, position: float | None = None
    ) -> Pending:
        return lambda: Picture(self._convert(frame), position, captured)

    def _newest(self) -> Iterator[Pending]:
        """Every frame; while frames are late, key frames only."""
        lag = Lag()
        skipping, since = False, 0.0
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
                lag, since = Lag(), now
            for frame in self._reader.decode(packet):
                yield self._pending(frame, now - behind)

    def _still_pictures(self) -> Iterator[Pending]:
        """Packets of a picture each: only a frame that is read is decoded."""
        decoder = JpegDecoder()

        def decode(packet: Any, captured: float) -> Picture | None:
            image = decoder.decode(packet)
            if image is None:
                self._reader.note_damaged()
                return None
            self._reader.note_good()
            return Picture(image, None, captured)

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
    transport = {"multicast": "udp_multicast"}.get(options.transport, options.transport)
    container = {
        "rtsp_transport": transport,
        "allowed_media_types": "video",
        # Some cameras never say how fast they are: half a second is enough to find out.
        "analyzeduration": "500000",
        "probesize": "1000000",
        "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto",
        # Of its socket, also where no timeout of PyAV is under way, such as while closing.
        "timeout": options.microseconds,
        **_certificates(options.verify),
    }
    gpu = options.device if options.decoder == "nvdec" else None
    address = options.with_credentials(address)
    return _source(address, name, container, options, live=True, gpu=gpu)


def stream_source(address: str, name: str, options: StreamOptions) -> NetworkSource:
    """The source behind :class:`StreamOptions`."""
    file = "://" not in address
    protocols = "file,rtp,srtp,udp,crypto" if file else "udp,rtp,srtp,srt,rtmp,rtmps,tcp,tls,crypto"
    container = {
        "protocol_whitelist": protocols,
        "analyzeduration": "1000000",
        "rw_timeout": options.microseconds,
    }
    address = f"file:{address}" if file else address
    kind = options.format or ("sdp" if file else None)
    return _source(address, name, container, options, live=True, format=kind)


def http_source(address: str, name: str, options: HttpOptions, *, live: bool) -> Source:
    """The source behind ``http://`` and ``https://``."""
    container = {
        # A playlist may name any address, but must not read files of this machine.
        "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto,data",
        "rw_timeout": options.microseconds,
        **({"analyzeduration": "1000000"} if live else {}),
        **_certificates(options.verify),
    }
    address = options.with_credentials(address)
    by_ffmpeg = _source(address, name, container, options, live=live)
    playlist = urlsplit(address).path.lower().endswith((".m3u8", ".m3u", ".mpd"))
    if playlist or not live:
        return by_ffmpeg
    return HttpCamera(address, name, options, by_ffmpeg)


def _source(
    address: str,
    name: str,
    container: dict[str, str],
    options: NetworkOptions,
    *,
    live: bool,
    format: str | None = None,
    gpu: int | None = None,
) -> NetworkSource:
    what = AvInput(
        address,
        name,
        container,
        format=format,
        connect_timeout=options.connect_timeout,
        timeout=options.timeout,
        live=live,
        threads=options.threads,
        gpu=gpu,
    )
    return NetworkSource(what, options.max_lag)


def _certificates(verify: bool) -> dict[str, str]:
    if not verify:
        return {"tls_verify": "0"}
    paths = ssl.get_default_verify_paths()
    return {"tls_verify": "1", **({"ca_file": paths.cafile} if paths.cafile else {})}
