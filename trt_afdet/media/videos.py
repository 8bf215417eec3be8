"""Pictures and videos from disk, and annotated ones back to it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError, WriteError
from trt_afdet.files import atomic_path
from trt_afdet.media.pictures import read_picture
from trt_afdet.media.suffixes import PICTURE_SUFFIXES

Image = npt.NDArray[np.uint8]


def quiet_opencv() -> None:
    """Keeps OpenCV and FFmpeg from writing to stderr."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_video(path: Path) -> cv2.VideoCapture:
    """OpenCV's reader of a video file, opened or not."""
    quiet_opencv()
    return cv2.VideoCapture(str(path))


@dataclass(frozen=True)
class MediaFrame:
    """One frame of a source.

    Attributes:
        image: BGR uint8 [H, W, 3].
        path: The picture or video it came from.
        index: Number within its source, from 0.
        timestamp_ms: Position in the video; None for a picture.
    """

    image: Image
    path: Path
    index: int
    timestamp_ms: float | None = None


class PictureSource:
    """Pictures, one by one. One that cannot be read is skipped and kept in :attr:`failed`.

    Args:
        paths: The files.
        strict: Raise at the first unreadable file instead (a source of one picture).
    """

    def __init__(self, paths: list[Path], *, strict: bool) -> None:
        self.paths = paths
        self.strict = strict
        self.failed: list[CorruptFileError] = []

    is_video = False
    fps: float | None = None

    @property
    def total(self) -> int | None:
        return len(self.paths)

    def __iter__(self) -> Iterator[MediaFrame]:
        for index, path in enumerate(self.paths):
            try:
                image = read_picture(path)
            except CorruptFileError as error:
                if self.strict:
                    raise
                self.failed.append(error)
                continue
            yield MediaFrame(image, path, index)

    def __enter__(self) -> PictureSource:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


class VideoSource:
    """Frames of a video file, front to back.

    Raises:
        CorruptFileError: If the file is no video, or holds no frame.
    """

    is_video = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = [path]
        self.failed: list[CorruptFileError] = []
        self._capture = open_video(path)
        if not self._capture.isOpened():
            raise CorruptFileError(
                "neither a picture nor a video that can be read",
                got=path,
                hint="the file may be cut off; pictures are known by their suffix",
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps: float | None = rate if 0 < rate < 1000 else None
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.total: int | None = count if count > 0 else None

    def __iter__(self) -> Iterator[MediaFrame]:
        index = 0
        while True:
            ok, image = self._capture.read()
            if not ok:
                break
            # Of the frame just read.
            timestamp = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
            yield MediaFrame(np.asarray(image, np.uint8), self.path, index, timestamp)
            index += 1
        if index == 0:
            raise CorruptFileError("the video has no frame that can be decoded", got=self.path)
        # Containers round their count; a large gap is a cut file.
        if self.total is not None and index < 0.9 * self.total:
            self.failed.append(
                CorruptFileError(
                    f"{self.path} ends early",
                    got=f"{index} of {self.total} frames",
                    hint="the file is truncated or damaged",
                )
            )

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


Source = PictureSource | VideoSource


def open_source(source: str | Path) -> Source:
    """A picture, a folder of pictures, a glob of pictures, or a video file.

    Raises:
        MissingFileError: If there is nothing by that name.
        CorruptFileError: If it is neither a picture nor a video.
        InvalidValueError: If a folder or glob holds no picture.
    """
    path = Path(source)
    if path.is_dir():
        return _pictures(sorted(path.iterdir()), f"folder {path}")
    if path.is_file():
        if path.stat().st_size == 0:
            raise CorruptFileError("the file is empty (0 bytes)", got=path)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return PictureSource([path], strict=True)
        return VideoSource(path)
    if glob.has_magic(str(source)):
        # pathlib's glob wants the pattern apart from its folder; a shell user does not.
        return _pictures([Path(p) for p in sorted(glob.glob(str(source)))], f"pattern {source}")  # noqa: PTH207
    raise MissingFileError(
        "no such picture, folder or video", got=source, hint="check the path and its spelling"
    )


def _pictures(paths: list[Path], where: str) -> PictureSource:
    pictures = [p for p in paths if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file()]
    if not pictures:
        raise InvalidValueError(
            f"{where} holds no picture", hint=f"looked for {', '.join(PICTURE_SUFFIXES)}"
        )
    return PictureSource(pictures, strict=False)


def write_picture(path: Path, image: Image) -> None:
    """Writes a picture atomically; the suffix chooses the format.

    Raises:
        InvalidValueError: If the suffix is no picture's.
        WriteError: If it cannot be written.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InvalidValueError(
            "unknown picture format", got=path, hint=f"use {', '.join(PICTURE_SUFFIXES)}"
        )
    ok, data = cv2.imencode(path.suffix, image)
    if not ok:
        raise WriteError("the picture cannot be encoded", got=path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


class VideoWriter:
    """Writes a video, in full or not at all.

    MPEG-4 in mp4 or mkv, Motion JPEG in avi: codecs every OpenCV wheel has. The size is the first
    frame's; the file appears when the block ends well.

    Raises:
        InvalidValueError: If the suffix is no video's or a frame has another size.
        WriteError: If it cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() not in (".mp4", ".mkv", ".avi"):
            raise InvalidValueError("unknown video format", got=path, hint="use .mp4, .mkv or .avi")
        self.path = path
        self.fps = fps
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self._writer: Any = None
        self._shape: tuple[int, ...] | None = None
        self._frames = 0

    def __enter__(self) -> VideoWriter:
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def write(self, image: Image) -> None:
        """Appends a frame, BGR uint8 [H, W, 3]."""
        if self._writer is None:
            quiet_opencv()
            codec = "MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"
            height, width = image.shape[:2]
            self._writer = cv2.VideoWriter(
                str(self._temporary), cv2.VideoWriter.fourcc(*codec), self.fps, (width, height)
            )
            if not self._writer.isOpened():
                raise WriteError("the video cannot be opened for writing", got=self.path)
            self._shape = image.shape
        if image.shape != self._shape:
            raise InvalidValueError("all frames of a video have one size", got=list(image.shape))
        self._writer.write(image)
        self._frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._frames and not self._complete():
            error = OSError(28, "the encoder could not write all frames")
            kind = OSError
            self._stack.__exit__(kind, error, None)
            return
        self._stack.__exit__(kind, error, trace)

    def _complete(self) -> bool:
        """Whether the file can be opened again: OpenCV's writer does not report a full disk."""
        assert self._temporary is not None
        capture = open_video(self._temporary)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        return count >= self._frames
