"""Frames out of FFmpeg, through PyAV, and what its errors and cameras' answers mean."""

from __future__ import annotations

import errno
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_afdet.media.pyav import load_av, open_input
from trt_afdet.media.videos import Converter
from trt_afdet.stream.sources.base import (
    GRACE,
    LoginRefusedError,
    SourceError,
    SourceInfo,
    SourceRefusedError,
    UnusableSourceError,
)
from trt_afdet.support.redact import redact

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame

#: What cameras answer, and what helps.
STATUS = {
    400: ("the camera does not understand the request", "check the path and the transport"),
    404: ("there is no such stream", "check the path"),
    406: ("the camera has no stream of that kind", "check the path and its codec settings"),
    408: ("the camera gave up waiting", "look at the network between"),
    415: ("the camera has no stream of that kind", "check the path and its codec settings"),
    429: ("too many requests", "something else asks it too often"),
    451: ("the camera does not understand a parameter", "check the path and its query"),
    453: (
        "the camera has no bandwidth left",
        "too many viewers: close others, raise its limit, or use its second stream",
    ),
    454: ("the camera has forgotten the session", "raise its session timeout if this repeats"),
    455: ("the camera cannot play now", "it may be busy or starting"),
    457: ("the camera has no such time range", "ask for a live stream"),
    459: ("the camera controls its streams one by one", "ask for one of its streams"),
    460: ("the camera controls its streams only together", "ask for the stream above"),
    461: (
        "the camera does not send in this way",
        "add #transport=udp, or #transport=tcp where it is udp",
    ),
    500: ("the camera has an error of its own", "restart it if this repeats"),
    501: ("the camera cannot do what is asked", "check the path and the transport"),
    503: ("the camera is busy", "too many viewers, or it is starting"),
    551: ("the camera lacks an RTSP feature that is asked for", "check the transport"),
}
#: Damaged packets in a row after which a stream counts as garbage.
MOST_DAMAGED = 200
_FAILED = re.compile(r"failed: (\d{3})\b")
_lock = threading.Lock()
_listening = 0


@contextmanager
def ffmpeg_messages() -> Iterator[list[str]]:
    """What FFmpeg says in this thread: its errors alone do not tell a 453 from a 454."""
    global _listening
    av = load_av()
    # Only while a camera is opened: nothing is printed, and decoders stay quiet.
    libav = logging.getLogger("libav")
    with _lock:
        _listening += 1
        libav.propagate = False
        if not libav.handlers:
            libav.addHandler(logging.NullHandler())
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.ERROR)
    said: list[str] = []
    try:
        with av.logging.Capture(local=True) as logs:
            try:
                yield said
            finally:
                said += [message for _, _, message in logs]
    finally:
        with _lock:
            _listening -= 1
            if not _listening:
                av.logging.set_level(None)


def status_error(name: str, status: int) -> SourceError:
    """The error for the status of an answer, of RTSP or HTTP."""
    if status in (401, 403, 407):
        return LoginRefusedError(
            f"{name}: user or password is refused ({status})",
            hint="give them as USER:PASSWORD@ before the host, special characters as %XX",
        )
    kind = SourceError if status >= 500 else SourceRefusedError
    if status not in STATUS:
        return kind(f"{name}: the camera answers {status}")
    what, hint = STATUS[status]
    return kind(f"{name}: {what} ({status})", hint=hint)


@dataclass(frozen=True)
class AvInput:
    """What FFmpeg is asked to open.

    Attributes:
        address: With credentials; never shown.
        name: For people.
        options, format: Of the container; its format is None to find out.
        connect_timeout, timeout: Seconds; None for a file of this machine.
        live: Whether the decoder must not hold frames back to work on several at once.
        threads: Of the decoder; 0 to choose, which is two if live.
        gpu: Number of the NVIDIA GPU whose NVDEC decodes; None for the CPU.
    """

    address: str = field(repr=False)
    name: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    format: str | None = None
    connect_timeout: float | None = None
    timeout: float | None = None
    live: bool = False
    threads: int = 0
    gpu: int | None = None

    def error(
        self, error: BaseException, said: Sequence[str] = (), *, opening: bool = False
    ) -> SourceError:
        """The message for an error of PyAV, without the address that PyAV puts into its texts.

        ``said`` is what FFmpeg said meanwhile; ``opening``, whether it came before the first frame.
        """
        name, file = self.name, self.timeout is None
        e = load_av().error
        if isinstance(error, SourceError):
            return error
        number = error.errno if isinstance(error, OSError) and not file else None
        if isinstance(error, e.HTTPUnauthorizedError):
            return status_error(name, 401)
        if isinstance(error, e.HTTPForbiddenError):
            return status_error(name, 403)
        if isinstance(error, e.HTTPNotFoundError):
            return status_error(name, 404)
        if number == errno.EPROTONOSUPPORT:
            return status_error(name, 461)
        for line in reversed(said):
            if (found := _FAILED.search(line)) is not None:
                return status_error(name, int(found[1]))
        if isinstance(error, FileNotFoundError):
            return SourceRefusedError(f"{name}: no such file")
        if isinstance(error, e.ExitError):
            waited = (self.connect_timeout if opening else self.timeout) or 0.0
            return SourceError(f"{name}: silent for {waited:g} s")
        if isinstance(error, e.ProtocolNotFoundError):
            return UnusableSourceError(
                f"{name}: the FFmpeg of PyAV was built without this protocol",
                hint="gst:// may play it, or a server such as MediaMTX can turn it into RTSP",
            )
        if isinstance(error, e.LookupError):
            return SourceRefusedError(
                f"{name}: the FFmpeg of PyAV cannot play it", got=redact(str(error.strerror))
            )
        if isinstance(error, e.InvalidDataError):
            kind = SourceRefusedError if file else SourceError
            return kind(f"{name}: not a video that can be read", hint="is it cut off or damaged?")
        text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        if number == errno.EIO:  # FFmpeg's answer to many things.
            text = "the stream broke off"
            if opening:
                text = "cannot be reached - is the host's name right?"
        return SourceError(f"{name}: {redact(str(text))}")


def nvdec(what: AvInput) -> Any:
    """FFmpeg's way to NVDEC; SourceRefusedError if there is none."""
    av = load_av()
    from av.codec.hwaccel import HWAccel, hwdevices_available

    if "cuda" not in hwdevices_available():
        raise SourceRefusedError(
            f"{what.name}: the FFmpeg of PyAV was built without NVDEC", hint="use decoder=cpu"
        )
    try:
        return HWAccel("cuda", str(what.gpu), allow_software_fallback=False)
    except (av.error.FFmpegError, RuntimeError, ValueError) as error:
        raise no_nvdec(what, error) from None


def no_nvdec(what: AvInput, error: BaseException) -> SourceRefusedError:
    return SourceRefusedError(
        f"{what.name}: GPU {what.gpu} cannot decode it",
        got=getattr(error, "strerror", None) or error,
        hint="NVDEC needs an NVIDIA driver (in a container: its video capability), or decoder=cpu",
    )


class AvReader:
    """One opened container. Used by one thread."""

    def __init__(self, what: AvInput) -> None:
        self.what = what
        self.format = ""  # Name of the container's format.
        self.duration: float | None = None  # Seconds; None if it does not say (live streams).
        self._container: av.container.InputContainer | None = None
        self._stream: Any = None
        self._in_a_row = 0

    def open(self) -> SourceInfo:
        """Connects; SourceError if it cannot be opened, SourceRefusedError if it never can."""
        av = load_av()
        what = self.what
        hwaccel = None if what.gpu is None else nvdec(what)
        limits = None
        if what.timeout is not None and what.connect_timeout is not None:
            limits = (what.connect_timeout + GRACE, what.timeout + GRACE)
        said: list[str] = []
        listening: AbstractContextManager[list[str]] = nullcontext(said)
        if what.address.startswith("rtsp"):
            listening = ffmpeg_messages()
        try:
            with listening as said:
                self._container = open_input(
                    what.address,
                    format=what.format,
                    options=dict(what.options),
                    timeout=limits,
                    hwaccel=hwaccel,
                )
        except (av.error.FFmpegError, OSError, RuntimeError, ValueError) as error:
            # "from None": PyAV's texts hold the address.
            if what.gpu is not None and isinstance(
                error, (PermissionError, NotImplementedError, av.error.ExternalError)
            ):
                raise no_nvdec(what, error) from None
            raise what.error(error, said, opening=True) from None
        container = self._container
        if not container.streams.video:
            kind = SourceRefusedError if what.timeout is None else SourceError
            raise kind(f"{what.name}: holds no video")
        stream = self._stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise SourceRefusedError(f"{what.name}: the FFmpeg of PyAV cannot decode its codec")
        # Frame threads hold back a frame each.
        context.thread_type = "SLICE" if what.live else "AUTO"
        context.thread_count = what.threads or (2 if what.live else 0)
        self.format = container.format.name
        self.duration = container.duration / av.time_base if container.duration else None
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate and 0 < rate < 1000 else None
        return SourceInfo(context.width or 0, context.height or 0, fps, context.name or "")

    @property
    def codec(self) -> str:
        return str(self._stream.codec_context.name)

    def skip_to_keyframes(self, skip: bool) -> None:
        """Whether only key frames are decoded, to catch up."""
        self._stream.codec_context.skip_frame = "NONKEY" if skip else "DEFAULT"

    def packets(self) -> Iterator[Any]:
        """Packets of the video stream; the last one is empty. SourceError if it breaks off."""
        av = load_av()
        assert self._container is not None
        while True:
            try:
                yield from self._container.demux(self._stream)
                return
            except av.error.InvalidDataError:
                self.note_damaged()
            except av.error.BlockingIOError:
                time.sleep(0.005)
            except (av.error.FFmpegError, OSError, RuntimeError) as error:
                raise self.what.error(error) from None

    def decode(self, packet: Any) -> list[VideoFrame]:
        """The frames that a packet completes: none, one, or several.

        SourceError if nothing but garbage comes, or the decoder gives up.
        """
        av = load_av()
        try:
            frames: list[VideoFrame] = packet.decode()
        except av.error.EOFError:
            return []
        except (av.error.InvalidDataError, av.error.UnknownError):
            self.note_damaged()
            return []
        except (av.error.FFmpegError, MemoryError, RuntimeError, ValueError) as error:
            raise self.what.error(error) from None
        if self.what.live:
            # Half a frame, the rest grey, is worse than none: another one follows soon.
            frames = [frame for frame in frames if not frame.is_corrupt]
        if frames:
            self.note_good()
        return frames

    def note_good(self) -> None:
        """Notes that a packet could be decoded."""
        self._in_a_row = 0

    def note_damaged(self) -> None:
        """Notes that a packet could not be decoded; SourceError if too many in a row could not."""
        self._in_a_row += 1
        if self._in_a_row > MOST_DAMAGED:
            raise SourceError(f"{self.what.name}: sends garbage, not video") from None

    def close(self) -> None:
        container, self._container = self._container, None
        self._stream = None
        if container is not None:
            container.close()


class JpegDecoder:
    """Decodes JPEGs that come without a container. Used by one thread."""

    def __init__(self) -> None:
        self._av = load_av()
        self._decoder: Any = self._av.CodecContext.create("mjpeg", "r")
        self._decoder.thread_count = 1
        self._convert = Converter()

    def decode(self, packet: Any) -> npt.NDArray[np.uint8] | None:
        """The picture of a packet of PyAV, BGR uint8 [H, W, 3]; None if it is damaged."""
        try:
            frames = self._decoder.decode(packet)
        except self._av.error.FFmpegError:
            return None
        return None if not frames or frames[-1].is_corrupt else self._convert(frames[-1])
