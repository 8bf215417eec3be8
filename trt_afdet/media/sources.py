"""What a command is given to look at: a picture, a folder or pattern of pictures, or a video."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.media.pictures import read_picture
from trt_afdet.media.suffixes import PICTURE_SUFFIXES
from trt_afdet.media.videos import Video, is_video_file, open_video

Image = npt.NDArray[np.uint8]


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
        self.failed: list[AfdetError] = []

    is_video = False
    fps: float | None = None

    @property
    def total(self) -> int | None:
        return len(self.paths)

    def __iter__(self) -> Iterator[MediaFrame]:
        for index, path in enumerate(self.paths):
            try:
                image = read_picture(path)
            except (CorruptFileError, MissingFileError) as error:
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

    Attributes:
        total: About how many frames there are; None if nobody knows. The exact number in the end.
        failed: What was wrong with the file: that it is cut off, or damaged.

    Raises:
        CorruptFileError: If the file is no video, or holds no frame.
    """

    is_video = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = [path]
        self.failed: list[AfdetError] = []
        self._video: Video = open_video(path)
        self.fps = self._video.info.fps
        #: What :class:`VideoWriter` is to be given for this video.
        self.write_fps = self._video.info.fastest or 25.0
        self.total = self._video.info.total

    def __iter__(self) -> Iterator[MediaFrame]:
        index = 0
        for image, seconds in self._video:
            yield MediaFrame(image, self.path, index, seconds * 1000)
            index += 1
        self.total = index
        damaged = self._video.damaged
        if self._video.cut_off:
            self.failed.append(
                CorruptFileError(
                    f"{self.path} is cut off",
                    got=f"{index} frames could be read",
                    hint="the end of the file is missing",
                )
            )
        elif damaged:
            places = "1 place" if damaged == 1 else f"{damaged} places"
            self.failed.append(
                CorruptFileError(
                    f"{self.path} is damaged",
                    got=f"{places} could not be decoded, {index} frames could",
                )
            )

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.close()


Source = PictureSource | VideoSource


def open_source(source: str | Path) -> Source:
    """A picture, a folder of pictures, a glob of pictures, or a video file.

    A file is known by its content. A GIF of several pictures is a video.

    Raises:
        MissingFileError: If there is nothing by that name.
        CorruptFileError: If it is neither a picture nor a video.
        InvalidValueError: If a folder or glob holds no picture.
    """
    path = Path(source)
    if path.is_dir():
        return _pictures(sorted(path.iterdir()), f"folder {path}")
    if path.is_file():
        if path.stat().st_size and not is_video_file(path):
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
