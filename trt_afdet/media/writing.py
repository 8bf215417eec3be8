"""The one writer of pictures and videos: whole or not at all."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError, WriteError
from trt_afdet.media.encoding import CLOCK, Encoder, choose_codec
from trt_afdet.media.pyav import load_av
from trt_afdet.media.suffixes import WRITABLE_PICTURES, WRITABLE_VIDEOS
from trt_afdet.support.files import atomic_path, write_error

Image = npt.NDArray[np.uint8]

#: FFmpeg's name of a suffix's container where it differs from what it would guess.
_CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
    ".avi": "avi", ".ts": "mpegts", ".gif": "gif",
}  # fmt: skip


def write_picture(path: Path, image: Image) -> None:
    """Writes a picture atomically; the suffix chooses the format."""
    if path.suffix.lower() not in WRITABLE_PICTURES:
        hint = f"use {', '.join(WRITABLE_PICTURES)}"
        raise InvalidValueError("unknown picture format", got=path, hint=hint)
    suffix = {".jpe": ".jpg", ".jfif": ".jpg"}.get(path.suffix.lower(), path.suffix.lower())
    try:
        ok, data = cv2.imencode(suffix, image)
    except cv2.error as error:
        raise WriteError("the picture cannot be encoded", got=path) from error
    if not ok:
        raise WriteError("the picture cannot be encoded", got=path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


class VideoWriter:
    """Writes a video, in full or not at all; the file appears when the block ends well.

    H.264 with 4:2:0 colours, which players everywhere show, in mp4, m4v, mov, mkv and ts; VP9 in
    webm; Motion JPEG in avi; gif. The size is the first frame's, with a row or column added where
    a side is odd; frames of another size are fitted into it.

    Args:
        path: The file; its suffix chooses the container (InvalidValueError if it is unknown).
        fps: Frames per second, about; exactly where frames come without their times.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in WRITABLE_VIDEOS:
            hint = f"use {', '.join(WRITABLE_VIDEOS)}"
            raise InvalidValueError("unknown video format", got=path, hint=hint)
        self.path, self.fps = path, fps
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self._container: Any = None
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._frames = 0

    def __enter__(self) -> VideoWriter:
        load_av()
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def write(self, image: Image, seconds: float | None = None) -> None:
        """Appends a BGR uint8 [H, W, 3] frame, ``seconds`` after the first (None: at ``fps``)."""
        if seconds is None:
            seconds = self._frames / self.fps
        try:
            if self._encoder is None:
                self._size = (image.shape[1], image.shape[0])
                self._encoder = self._open()
            # Frames that follow each other faster than the container can tell are left out.
            if self._encoder.has_room(seconds):
                self._encoder.encode(_fitted(image, self._size), seconds)
        except OSError as error:
            raise write_error(self.path, error) from error
        except (ValueError, RuntimeError) as error:
            raise WriteError("the video cannot be encoded", got=f"{self.path}: {error}") from error
        self._frames += 1

    def _open(self) -> Encoder:
        av = load_av()
        suffix = self.path.suffix.lower()
        rate = Fraction(self.fps).limit_denominator(1001)
        options = {"movflags": "+faststart"} if suffix in (".mp4", ".m4v", ".mov") else {}
        self._container = av.open(
            f"file:{self._temporary}", "w", format=_CONTAINERS[suffix], options=options
        )
        encoder = partial(Encoder, self._container, size=self._size, live=False, rate=rate)
        if suffix == ".gif":
            return encoder("gif", clock=100, pixels="rgb8")
        if suffix == ".avi":  # Its clock is its frame rate.
            return encoder("mjpeg", bitrate=20_000_000, clock=rate, pixels="yuvj420p")
        codec = choose_codec("libvpx-vp9" if suffix == ".webm" else None)
        clock = 90_000 if suffix == ".ts" else 1000 if suffix in (".mkv", ".webm") else CLOCK
        bitrate = None if codec == "libx264" else 8_000_000
        return encoder(codec, quality=23, bitrate=bitrate, clock=clock)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failure = error
        steps = [self._encoder.finish] if self._encoder is not None and error is None else []
        steps += [self._container.close] if self._container is not None else []
        for step in steps:
            try:
                step()
            except (OSError, ValueError, RuntimeError) as late:
                failure = failure or late
        if failure is not None and failure is not error:
            if not isinstance(failure, OSError):
                failure = OSError(5, str(failure))
            self._stack.__exit__(type(failure), failure, None)
            raise write_error(self.path, failure) from failure
        self._stack.__exit__(kind, error, trace)


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """The picture in another size: scaled as a whole, with black bars."""
    width, height = size
    if image.shape[:2] == (height, width):
        return image
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner)
    return canvas
