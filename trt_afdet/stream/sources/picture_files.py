"""Pictures: one, a folder of them, or a pattern such as ``shots/*.jpg``."""

from __future__ import annotations

import glob
import logging
from pathlib import Path

from trt_afdet.errors import AfdetError, CorruptFileError, MissingFileError
from trt_afdet.media import PICTURE_SUFFIXES, read_picture
from trt_afdet.media.content import check_is_file
from trt_afdet.media.inputs import list_files
from trt_afdet.stream.sources.base import Picture, SourceError, SourceInfo, SourceRefusedError

log = logging.getLogger("trt_afdet.stream")


class PicturesSource:
    """A picture, or those of a folder or a pattern in the order of their names.

    One that cannot be read is passed over and logged.
    """

    live = False
    #: See :func:`trt_afdet.stream.sources.base.incomplete`.
    incomplete = ""

    def __init__(self, where: str | Path, name: str | None = None) -> None:
        self.name = name or str(where)
        self._where = str(where)
        self._paths: list[Path] = []
        self._next = self._failed = 0
        self._interrupted = False

    def open(self) -> SourceInfo:
        self._interrupted = False
        path = Path(self._where)
        try:
            if path.is_file():
                self._paths = [path]
            else:
                paths = list_files(self._where)
                self._paths = [p for p in paths if p.suffix.lower() in PICTURE_SUFFIXES]
        except OSError as error:
            raise SourceRefusedError(
                f"{self.name}: cannot be read: {error.strerror or error}"
            ) from error
        self._next = self._failed = 0
        self.incomplete = ""
        if not self._paths:
            if not (path.is_dir() or glob.has_magic(self._where)):
                try:
                    check_is_file(path, "picture")
                except AfdetError as error:
                    raise SourceRefusedError(
                        f"{self.name}: {error.what}", hint=error.hint
                    ) from None
            raise SourceRefusedError(
                f"{self.name}: holds no picture", hint=f"looked for {', '.join(PICTURE_SUFFIXES)}"
            )
        return SourceInfo(0, 0, None, "pictures")

    def read(self) -> Picture | None:
        while self._next < len(self._paths):
            if self._interrupted:
                raise SourceError(f"{self.name}: reading was interrupted")
            path = self._paths[self._next]
            self._next += 1
            try:
                return Picture(read_picture(path))
            except (CorruptFileError, MissingFileError, OSError) as error:
                self._failed += 1
                log.warning("%s: passed over: %s", self.name, error)
        if self._failed == len(self._paths):
            raise SourceRefusedError(
                f"{self.name}: none of its pictures can be read", got=f"{self._failed} pictures"
            )
        if self._failed:
            self.incomplete = f"{self._failed} of {len(self._paths)} pictures could not be read"
        return None

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        self._paths = []
        self._next = 0
