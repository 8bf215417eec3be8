"""Translates PyAV's errors into messages."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trt_afdet.media.pyav import load_av
from trt_afdet.stream.sources.base import (
    LoginRefusedError,
    SourceError,
    SourceRefusedError,
    UnusableSourceError,
)
from trt_afdet.support.redact import redact

#: What cameras answer, and what helps.
STATUS: dict[int, tuple[str, str]] = {
    400: ("the camera does not understand the request (400)", "check the path and the transport"),
    404: ("there is no such stream (404)", "check the path"),
    406: ("the camera has no stream of that kind (406)", "check the path and its codec settings"),
    408: ("the camera gave up waiting (408)", "look at the network between"),
    415: ("the camera has no stream of that kind (415)", "check the path and its codec settings"),
    429: ("too many requests (429)", "something else asks it too often"),
    451: ("the camera does not understand a parameter (451)", "check the path and its query"),
    453: (
        "the camera has no bandwidth left (453)",
        "too many viewers: close others, raise its limit, or use its second stream",
    ),
    454: (
        "the camera has forgotten the session (454)",
        "raise its session timeout if this repeats",
    ),
    455: ("the camera cannot play now (455)", "it may be busy or starting"),
    457: ("the camera has no such time range (457)", "ask for a live stream"),
    459: ("the camera controls its streams one by one (459)", "ask for one of its streams"),
    460: ("the camera controls its streams only together (460)", "ask for the stream above"),
    461: (
        "the camera does not send in this way (461)",
        "add #transport=udp, or #transport=tcp where it is udp",
    ),
    500: ("the camera has an error of its own (500)", "restart it if this repeats"),
    501: ("the camera cannot do what is asked (501)", "check the path and the transport"),
    503: ("the camera is busy (503)", "too many viewers, or it is starting"),
    551: ("the camera lacks an RTSP feature that is asked for (551)", "check the transport"),
}
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
    what, hint = STATUS.get(status, (f"the camera answers {status}", None))
    kind = SourceError if status >= 500 else SourceRefusedError
    return kind(f"{name}: {what}", hint=hint)


def source_error(
    name: str,
    error: BaseException,
    waited: float,
    *,
    file: bool,
    opening: bool,
    said: list[str] | None = None,
) -> SourceError:
    """The message for an error of PyAV, without the address that PyAV puts into its texts.

    Args:
        name: Of the source, without credentials.
        error: As caught.
        waited: Seconds after which a silent peer is given up.
        file: Whether the source is a file on this machine.
        opening: Whether it came before the first frame.
        said: What FFmpeg said meanwhile.
    """
    av = load_av()
    e = av.error
    if isinstance(error, SourceError):
        return error
    if isinstance(error, e.HTTPUnauthorizedError):
        return status_error(name, 401)
    if isinstance(error, e.HTTPForbiddenError):
        return status_error(name, 403)
    if isinstance(error, e.HTTPNotFoundError):
        return status_error(name, 404)
    if isinstance(error, OSError) and error.errno == errno.EPROTONOSUPPORT and not file:
        return status_error(name, 461)
    for line in reversed(said or []):
        if (found := _FAILED.search(line)) is not None:
            return status_error(name, int(found[1]))
    if isinstance(error, FileNotFoundError):
        return SourceRefusedError(f"{name}: no such file")
    if isinstance(error, e.ExitError):
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
    if isinstance(error, OSError) and error.errno == errno.EIO and not file:
        # FFmpeg's answer to many things.
        reason = (
            "cannot be reached - is the host's name right?" if opening else "the stream broke off"
        )
        return SourceError(f"{name}: {reason}")
    text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return SourceError(f"{name}: {redact(str(text))}")
