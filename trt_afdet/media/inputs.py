"""The inputs of a command: pictures, folders, globs and videos, in any mixture."""

from __future__ import annotations

import glob
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.media.pictures import read_picture
from trt_afdet.media.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from trt_afdet.media.videos import Video, is_video_file
from trt_afdet.support.redact import redact


@dataclass(frozen=True)
class InputFrame:
    """One frame of the inputs.

    Attributes:
        image: BGR uint8 [H, W, 3].
        path: The picture or video it came from.
        index: Its number in the video, or among the pictures of a folder or glob, from 0.
        timestamp_ms: Position in the video; None for a picture.
    """

    image: npt.NDArray[np.uint8]
    path: Path
    index: int
    timestamp_ms: float | None = None


class Item(NamedTuple):
    """Pictures of one word of the command line, or one video."""

    paths: list[Path]
    is_video: bool


class Inputs(AbstractContextManager["Inputs"]):
    """Frames of everything that was named, in order.

    Args:
        items: The pictures and videos.
        strict: Raise at the first file that cannot be read.
        tell: Called with a line as each of several items begins.

    Attributes:
        videos: The videos among all the ``paths``.
        is_video: Whether there is one video and nothing else.
        failed: What could not be read, and which videos are damaged or cut off.
        total: How many frames there are; a guess for a video until its end; None if not known.
        rates: Frames per second of the videos opened so far, for :class:`VideoWriter`.
        is_done, is_known: Tell which files, and which frames of a video, an earlier run has done;
            they are left out.
    """

    def __init__(
        self, items: list[Item], *, strict: bool, tell: Callable[[str], None] | None = None
    ) -> None:
        self.items = items
        self.strict = strict
        self.paths = [path for item in items for path in item.paths]
        self.videos = {path for item in items if item.is_video for path in item.paths}
        self.is_video = len(items) == 1 and items[0].is_video
        self.failed: list[AfdetError] = []
        self.total = None if self.videos else len(self.paths)
        self.rates: dict[Path, float] = {}
        self.is_done: Callable[[Path], bool] = lambda path: False
        self.is_known: Callable[[InputFrame], bool] = lambda frame: False
        self._tell = tell
        self._video: Video | None = None
        if strict and self.is_video:
            self._open(self.paths[0])

    def __iter__(self) -> Iterator[InputFrame]:
        for number, item in enumerate(self.items, 1):
            if self._tell is not None and len(self.items) > 1 and self.videos:
                name = item.paths[0] if len(item.paths) == 1 else f"{len(item.paths)} pictures"
                self._tell(f"source {number} of {len(self.items)}: {name}")
            yield from self._read_video(item.paths[0]) if item.is_video else self._pictures(item)

    def _pictures(self, item: Item) -> Iterator[InputFrame]:
        for index, path in enumerate(item.paths):
            if self.is_done(path):
                continue
            try:
                image = read_picture(path)
            except (CorruptFileError, MissingFileError) as error:
                self._fail(error)
            else:
                yield InputFrame(image, path, index)

    def _read_video(self, path: Path) -> Iterator[InputFrame]:
        if self.is_done(path):
            return
        count = 0
        try:
            with self._video or self._open(path) as video:
                for image, seconds in video:
                    frame = InputFrame(image, path, count, seconds * 1000)
                    count += 1
                    if not self.is_known(frame):
                        yield frame
        except (CorruptFileError, MissingFileError) as error:
            self._fail(error)
            return
        finally:
            self._video = None
        if self.is_video:
            self.total = count
        if video.fault:
            got = f"{count} frames could be read"
            self.failed.append(CorruptFileError(f"{path} {video.fault}", got=got))

    def _open(self, path: Path) -> Video:
        video = self._video = Video(path)
        self.rates[path] = video.info.fastest or 25.0
        if self.is_video:
            self.total = video.info.total
        return video

    def _fail(self, error: AfdetError) -> None:
        if self.strict:
            raise error
        self.failed.append(error)

    def __exit__(self, *_: object) -> None:
        if self._video is not None:
            self._video.close()


def open_inputs(
    given: str | Path | Sequence[str], *, tell: Callable[[str], None] | None = None
) -> Inputs:
    """The inputs that one path, or the words of a command line, name.

    A file is known by its content: a GIF of several pictures is a video. Of folders and globs the
    pictures and videos are taken, by their suffixes. A single file that cannot be read is an error;
    of several, those that cannot be read are kept in :attr:`Inputs.failed`.

    Raises:
        MissingFileError: If a name matches nothing.
        CorruptFileError: If a file is empty, or the only one is a video that cannot be opened.
        InvalidValueError: If a word names a camera, or a folder or glob holds nothing of use.
    """
    words = [str(given)] if isinstance(given, (str, Path)) else given
    items = [item for word in words for item in _items(word)]
    return Inputs(items, strict=len(words) == 1 and Path(words[0]).is_file(), tell=tell)


def _items(word: str) -> list[Item]:
    path = _path_of(word)
    if path.is_dir():
        return _sorted(path, f"folder {path}")
    if path.exists():
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            if path.stat().st_size == 0:
                raise CorruptFileError("the file is empty (0 bytes)", got=path)
            return [Item([path], is_video_file(path))]
        if path.name.startswith("video") and stat.S_ISCHR(mode):
            raise _is_for_run(word)
        hint = "write it to a file first"
        raise InvalidValueError("neither a file nor a folder", got=path, hint=hint)
    if glob.has_magic(str(path)):
        return _sorted(path, f"pattern {path}")
    hint = "check the path and its spelling"
    raise MissingFileError("no such picture, folder or video", got=word, hint=hint)


def _path_of(word: str) -> Path:
    """The path that a word names; a camera's address is refused with the command that takes it."""
    path = Path(word)
    if word == "-":
        hint = "name a picture, a folder or a video"
        raise InvalidValueError("standard input cannot be read", got="-", hint=hint)
    if not word:
        raise MissingFileError("the name of the source is empty", hint="name a picture or a video")
    if path.exists() or path.is_symlink():
        if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
            raise _is_for_run(word)
        return path
    if word.lower().startswith("file:"):
        return Path(unquote(urlsplit(word).path))
    if word.isdigit():
        raise _is_for_run(f"/dev/video{int(word)}", got=word)
    named = re.fullmatch(r"[A-Za-z0-9][\w-]*=(.+)", word)
    address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", word)
    named_one = named and (named[1].isdigit() or "://" in named[1] or Path(named[1]).exists())
    device = re.fullmatch(r"/dev/(video\d+|v4l/.*)", word)
    if "://" in word or address or device or named_one:
        raise _is_for_run(word)
    return path


def _is_for_run(word: str, got: str | None = None) -> AfdetError:
    only = "only pictures and video files are read here"
    what = f"{only}; cameras, streams and named sources are for run"
    hint = f"trt-afdet run {shlex.quote(redact(word))}"
    return InvalidValueError(what, got=redact(got or word), hint=hint)


def list_files(place: str | Path) -> list[Path]:
    """The files of a folder or a glob, sorted; hidden ones are left out."""
    path = Path(place)
    # pathlib's glob wants the pattern apart from its folder; a shell user does not.
    found = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(place), recursive=True))  # noqa: PTH207
    return sorted(p for p in found if not p.name.startswith(".") and p.is_file())


def _sorted(place: Path, where: str) -> list[Item]:
    """The pictures of a folder or glob as one item, each video as one."""
    files = list_files(place)
    pictures = [p for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    if not pictures and not videos:
        hint = f"looked for {', '.join(PICTURE_SUFFIXES)} and {', '.join(VIDEO_SUFFIXES)}"
        raise InvalidValueError(f"{where} holds no picture and no video", hint=hint)
    items = [Item(pictures, is_video=False)] if pictures else []
    return items + [Item([video], is_video=True) for video in videos]
