"""Video files: every frame, with its position, upright."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from trt_afdet.errors import AfdetError, CorruptFileError, MissingFileError
from trt_afdet.media.videos import Video
from trt_afdet.stream.sources.av_reader import AvInput, no_nvdec, nvdec
from trt_afdet.stream.sources.base import Picture, SourceError, SourceInfo, SourceRefusedError
from trt_afdet.support.fields import Limit

log = logging.getLogger("trt_afdet.stream")


@dataclass(frozen=True)
class FileOptions:
    """Options of files.

    Attributes:
        decoder: ``cpu``, or ``nvdec`` for an NVIDIA GPU.
        device: Number of that GPU.
        threads: Of the decoder on the CPU; 0: as many as there are cores.
    """

    decoder: Literal["cpu", "nvdec"] = "cpu"
    device: Annotated[int, Limit(least=0)] = 0
    threads: Annotated[int, Limit(least=0)] = 0


class VideoFileSource:
    """The source behind paths of videos and ``file://``."""

    live = False
    #: See :func:`trt_afdet.stream.sources.base.incomplete`.
    incomplete = ""

    def __init__(
        self, path: str | Path, name: str | None = None, options: FileOptions | None = None
    ) -> None:
        self.name = name or str(path)
        self._path = Path(path)
        self._options = options or FileOptions()
        self._video: Video | None = None
        self._interrupted = threading.Event()

    def open(self) -> SourceInfo:
        self.close()
        self._interrupted.clear()
        self.incomplete = ""
        gpu = self._options.device if self._options.decoder == "nvdec" else None
        what = AvInput(str(self._path), self.name, gpu=gpu)
        try:
            video = self._video = Video(
                self._path,
                threads=self._options.threads,
                hwaccel=None if gpu is None else nvdec(what),
                interrupted=self._interrupted,
            )
        except (MissingFileError, CorruptFileError) as error:
            raise _refused(self.name, error) from None
        except AfdetError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise no_nvdec(what, error) from None
        info = video.info
        return SourceInfo(info.width, info.height, info.fps, info.codec)

    def read(self) -> Picture | None:
        if self._video is None or self._interrupted.is_set():
            raise SourceError(f"{self.name}: reading was interrupted")
        try:
            found = self._video.read()
        except CorruptFileError as error:
            raise _refused(self.name, error) from None
        if found is not None:
            return Picture(*found)
        if self._interrupted.is_set():
            raise SourceError(f"{self.name}: reading was interrupted")
        if not self.incomplete and (fault := self._video.fault):
            self.incomplete = fault
            log.warning("%s: %s", self.name, fault)
        return None

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()


def _refused(name: str, error: AfdetError) -> SourceRefusedError:
    """The reader's error, with the name of the source instead of the path."""
    return SourceRefusedError(f"{name}: {error.what}", hint=error.hint)
