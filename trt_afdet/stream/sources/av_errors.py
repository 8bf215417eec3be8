"""PyAV's errors in words."""

from __future__ import annotations

import errno

from trt_afdet.media.pyav import load_av
from trt_afdet.stream.redact import redact
from trt_afdet.stream.sources.base import SourceError, SourceRefusedError


def source_error(
    name: str, error: BaseException, waited: float, *, file: bool, opening: bool
) -> SourceError:
    """What an error of PyAV means, without the address that PyAV puts into its texts.

    Args:
        name: Of the source, without credentials.
        error: As caught.
        waited: Seconds after which a silent peer is given up.
        file: Whether the source is a file on this machine.
        opening: Whether it came before the first frame.
    """
    av = load_av()
    e = av.error
    if isinstance(error, SourceError):
        return error
    if isinstance(error, (e.HTTPUnauthorizedError, e.HTTPForbiddenError)):
        return SourceRefusedError(
            f"{name}: user or password is refused",
            hint="give them as rtsp://USER:PASSWORD@HOST/... with special characters as %XX",
        )
    if isinstance(error, e.HTTPNotFoundError):
        return SourceError(f"{name}: there is no such stream (404)", hint="check the path")
    if isinstance(error, FileNotFoundError):
        return SourceRefusedError(f"{name}: no such file")
    if isinstance(error, e.ExitError):
        return SourceError(f"{name}: silent for {waited:g} s")
    if isinstance(error, e.LookupError):
        return SourceRefusedError(
            f"{name}: the FFmpeg of PyAV cannot play it", got=redact(str(error.strerror))
        )
    if isinstance(error, e.InvalidDataError):
        kind = SourceRefusedError if file else SourceError
        return kind(f"{name}: not a video that can be read", hint="is it cut off or damaged?")
    if isinstance(error, OSError) and error.errno == errno.EIO and not file:
        # FFmpeg's answer to many things.
        said = (
            "cannot be reached - is the host's name right?" if opening else "the stream broke off"
        )
        return SourceError(f"{name}: {said}")
    text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return SourceError(f"{name}: {redact(str(text))}")
