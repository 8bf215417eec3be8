"""What ``trt-afdet detect`` is given: pictures, folders, globs and videos, in any mixture."""

from __future__ import annotations

import glob
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from trt_afdet.errors import AfdetError
    from trt_afdet.media import MediaFrame


@dataclass(frozen=True)
class Item:
    """Pictures of one word of the command line, or one video."""

    paths: list[Path]
    is_video: bool


class Inputs:
    """Frames of everything that was named, in the order of the command line.

    What cannot be read is kept in :attr:`failed` and the rest is done, unless it is the only file.

    Args:
        items: What there is.
        strict: Raise at the first file that cannot be read.
    """

    def __init__(self, items: list[Item], *, strict: bool) -> None:
        self.items = items
        self.strict = strict
        self.paths = [path for item in items for path in item.paths]
        self.failed: list[AfdetError] = []
        self.is_video = len(items) == 1 and items[0].is_video
        self.videos = {path for item in items if item.is_video for path in item.paths}
        self.total = None if self.videos else len(self.paths)
        self.rates: dict[Path, float] = {}
        #: Which files need not be read, as an earlier run has done them.
        self.is_done: Callable[[Path], bool] = lambda path: False
        #: Which frames of a video need not be looked at.
        self.is_known: Callable[[MediaFrame], bool] = lambda frame: False

    def __iter__(self) -> Iterator[MediaFrame]:
        from trt_afdet.cli import ui

        for number, item in enumerate(self.items, 1):
            if len(self.items) > 1 and self.videos:
                name = item.paths[0] if len(item.paths) == 1 else f"{len(item.paths)} pictures"
                ui.note(f"source {number} of {len(self.items)}: {name}")
            yield from self._video(item.paths[0]) if item.is_video else self._pictures(item)

    def _pictures(self, item: Item) -> Iterator[MediaFrame]:
        from trt_afdet.errors import CorruptFileError, MissingFileError
        from trt_afdet.media import MediaFrame, read_picture

        for index, path in enumerate(item.paths):
            if self.is_done(path):
                continue
            try:
                image = read_picture(path)
            except (CorruptFileError, MissingFileError) as error:
                self._fail(error)
                continue
            yield MediaFrame(image, path, index)

    def _video(self, path: Path) -> Iterator[MediaFrame]:
        from trt_afdet.errors import CorruptFileError, MissingFileError
        from trt_afdet.media import VideoSource

        if self.is_done(path):
            return
        try:
            with VideoSource(path) as video:
                if self.is_video:
                    self.total = video.total
                self.rates[path] = video.write_fps
                yield from (frame for frame in video if not self.is_known(frame))
                self.failed += video.failed
        except (CorruptFileError, MissingFileError) as error:
            self._fail(error)

    def _fail(self, error: AfdetError) -> None:
        if self.strict:
            raise error
        self.failed.append(error)


def open_inputs(words: Sequence[str]) -> Inputs:
    """The inputs that the words of a command line name.

    Raises:
        MissingFileError: If there is nothing by a name.
        CorruptFileError: If a file is empty.
        InvalidValueError: If a word names a camera, or a folder or glob holds nothing of use.
    """
    items: list[Item] = []
    for word in words:
        items += _items(word)
    return Inputs(items, strict=len(words) == 1 and Path(words[0]).is_file())


def _items(word: str) -> list[Item]:
    from trt_afdet.errors import InvalidValueError, MissingFileError

    path = _path_of(word)
    if path.is_dir():
        return _sorted(sorted(path.iterdir()), f"folder {path}")
    if path.exists():
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return [_item(path)]
        if path.name.startswith("video") and stat.S_ISCHR(mode):
            raise _is_for_run(word)
        raise InvalidValueError(
            "neither a file nor a folder", got=path, hint="write it to a file first"
        )
    if glob.has_magic(str(path)):
        # pathlib's glob wants the pattern apart from its folder; a shell user does not.
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        return _sorted([Path(name) for name in found], f"pattern {path}")
    raise MissingFileError(
        "no such picture, folder or video", got=word, hint="check the path and its spelling"
    )


def _path_of(word: str) -> Path:
    """The path that a word names; a camera's address is refused with the command that takes it."""
    from trt_afdet.errors import InvalidValueError, MissingFileError

    path = Path(word)
    if word == "-":
        raise InvalidValueError(
            "standard input cannot be read", got="-", hint="name a picture, a folder or a video"
        )
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
    if "://" in word or address or re.fullmatch(r"/dev/(video\d+|v4l/.*)", word):
        raise _is_for_run(word)
    if named and (named[1].isdigit() or "://" in named[1] or Path(named[1]).exists()):
        raise _is_for_run(word)
    return path


def _is_for_run(word: str, got: str | None = None) -> AfdetError:
    from trt_afdet.errors import InvalidValueError
    from trt_afdet.support.redact import redact

    shown = redact(word)
    return InvalidValueError(
        "detect reads pictures and video files; cameras, streams and named sources are for run",
        got=redact(got or word),
        hint=f"trt-afdet run {shlex.quote(shown)}",
    )


def _item(path: Path) -> Item:
    from trt_afdet.errors import CorruptFileError
    from trt_afdet.media import is_video_file

    if path.stat().st_size == 0:
        raise CorruptFileError("the file is empty (0 bytes)", got=path)
    return Item([path], is_video_file(path))


def _sorted(paths: list[Path], where: str) -> list[Item]:
    """The pictures among files as one item, each video as one; hidden files are left out."""
    from trt_afdet.errors import InvalidValueError
    from trt_afdet.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES

    files = [p for p in paths if not p.name.startswith(".") and p.is_file()]
    pictures = [p for p in files if p.suffix.lower() in PICTURE_SUFFIXES]
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES]
    if not pictures and not videos:
        raise InvalidValueError(
            f"{where} holds no picture and no video",
            hint=f"looked for {', '.join(PICTURE_SUFFIXES)} and {', '.join(VIDEO_SUFFIXES)}",
        )
    items = [Item(pictures, is_video=False)] if pictures else []
    return items + [Item([video], is_video=True) for video in videos]
