"""What FFmpeg says, and the errors for what cameras answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trt_afdet.media.pyav import load_av
from trt_afdet.stream.sources.base import LoginRefusedError, SourceError, SourceRefusedError

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
