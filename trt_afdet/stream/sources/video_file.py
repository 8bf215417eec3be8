"""Video files: every frame, with its position, upright."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trt_afdet.stream.sources.av_reader import AvInput, AvReader, Converter
from trt_afdet.stream.sources.base import Picture, SourceError, SourceInfo, SourceRefusedError
from trt_afdet.stream.sources.options import option

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class FileOptions:
    """Options of files.

    Attributes:
        decoder: ``cpu``, or ``nvdec`` for an NVIDIA GPU.
        device: Number of that GPU.
        threads: Of the decoder on the CPU; 0: as many as there are cores.
    """

    decoder: str = option("cpu", choices=("cpu", "nvdec"))
    device: int = option(0, least=0)
    threads: int = option(0, least=0)


class VideoFileSource:
    """The source behind paths of videos and ``file://``.

    Args:
        path: The file.
        name: For people.
        options: Of the decoder.
    """

    live = False

    def __init__(
        self, path: str | Path, name: str | None = None, options: FileOptions | None = None
    ) -> None:
        self.name = name or str(path)
        self._path = Path(path)
        self._options = options or FileOptions()
        self._reader: AvReader | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._convert: Converter | None = None
        self._count = 0
        self._start = 0.0
        self._fps = 0.0
        self._interrupted = threading.Event()

    def open(self) -> SourceInfo:
        self.close()
        self._interrupted.clear()
        if not self._path.is_file():
            kind = "is a folder" if self._path.is_dir() else "no such file"
            raise SourceRefusedError(f"{self.name}: {kind}")
        # A playlist or a list of files may name any address: only files are opened for it. The
        # prefix keeps a colon in a path from being read as a protocol.
        what = AvInput(
            f"file:{self._path}",
            self.name,
            {"protocol_whitelist": "file,crypto,data"},
            threads=self._options.threads,
            gpu=self._options.device if self._options.decoder == "nvdec" else None,
        )
        reader = self._reader = AvReader(what)
        info = reader.open()
        self._convert = Converter()
        self._fps = info.fps or 30.0
        self._count = 0
        self._frames = self._decode(reader)
        return info

    def read(self) -> Picture | None:
        if self._interrupted.is_set():
            raise SourceError(f"{self.name}: reading was interrupted")
        frame = next(self._frames, None)
        if frame is None:
            if self._count == 0:
                raise SourceRefusedError(f"{self.name}: holds no frame that can be decoded")
            return None
        if self._count == 0:
            self._start = frame.time or 0.0
        position = self._count / self._fps if frame.time is None else frame.time - self._start
        self._count += 1
        assert self._convert is not None
        return Picture(self._convert(frame), max(0.0, position))

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        reader, self._reader = self._reader, None
        self._frames = iter(())
        if reader is not None:
            reader.close()

    def _decode(self, reader: AvReader) -> Iterator[VideoFrame]:
        for packet in reader.packets():
            if self._interrupted.is_set():
                raise SourceError(f"{self.name}: reading was interrupted")
            yield from reader.decode(packet)
