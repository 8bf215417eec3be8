"""Annotated video, one file per source, in segments; readable up to its end whatever happens.

Files are fragmented MP4: ``FOLDER/SOURCE_20260131T235959.123Z.afdet.mp4`` with the time (UTC) of
the first frame. A kill costs the latest frame; the next start cuts its torn rest off. Frames have
their true times: of the file they come from, or of their capture. A pause in them stays a pause.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, BinaryIO

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.media.encoding import Encoder, choose_codec
from trt_afdet.media.pyav import load_av
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.monitoring.status import FINAL, StatusEvent
from trt_afdet.stream.options import Seconds, Size
from trt_afdet.support.files import write_error, write_whole
from trt_afdet.support.slug import slug

log = logging.getLogger("trt_afdet.stream")

#: What this sink has written, and nothing else, is called so.
_OWN = re.compile(r"[A-Za-z0-9_-]+_(\d{8}T\d{6}\.\d{3}Z)(?:-\d+)?\.afdet\.mp4")

LAST_BOX = 16  # Bytes of the last box (mfro) of a file that was closed.
LOOK = 2.0  # Seconds between looks at the free space.
LONGEST_PAUSE = 60.0  # A pause longer than so many seconds begins a new file.


class VideoSink:
    """Draws the detections on the frames and records them in a folder, which it uses alone.

    To keep space free the oldest recordings of this sink in the folder, of earlier runs too, are
    deleted. If even all of them would not do, it deletes none and stops to record until there is
    space. With ``wait`` the pipeline waits for a slow recording; else frames are left out.
    """

    def __init__(
        self,
        folder: Path,
        segment: Seconds = 600.0,  # After which a new file begins; 0 for never.
        keep_free: Size = 1_000_000_000,  # Bytes of the disk; with 0 a full disk is an error.
        codec: str | None = None,  # Encoder of FFmpeg; by default libx264 if there is one.
        quality: int = 26,  # 0 (best, largest) to 51.
        wait: bool = True,
    ) -> None:
        if segment < 0 or keep_free < 0:
            raise InvalidValueError("segment and keep_free must be at least 0")
        if not 0 <= quality <= 51:
            raise InvalidValueError("quality must be within 0..51", got=quality)
        self.name = f"video {folder}"
        self.path = folder / ".afdet.lock"
        self.durable = wait
        self.dropped = 0  # Frames that were not recorded because the disk was full.
        self._folder, self._segment, self._keep_free = folder, segment, keep_free
        self._wanted, self._codec, self._quality = codec, "", quality
        self._open: dict[str, _Segment] = {}
        self._lock = -1
        self._looked = float("-inf")
        self._paused = False

    def open(self) -> None:
        """Creates the folder, finds the encoder, and repairs files that a kill left open."""
        self._codec = choose_codec(self._wanted)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            what = "another process records into this folder"
            raise RunError(what, got=self._folder, hint="give each its own") from error
        except OSError as error:
            raise write_error(self._folder, error) from error
        for path, _ in self._own_files():
            try:
                repair(path)
            except OSError as error:
                log.warning("%s: cannot repair %s: %s", self.name, path.name, error.strerror)

    def write(self, result: StreamResult) -> None:
        if not self._has_space():
            self.dropped += 1
            return
        frame = result.frame
        segment = self._open.get(frame.source)
        if segment is None or not segment.takes(frame, self._segment):
            self._end(frame.source)
            path = self._new_path(frame)
            segment = self._open[frame.source] = _Segment(path, frame, self._codec, self._quality)
            log.info("%s: %s", self.name, path.name)
        segment.add(result.annotated, frame)

    def status(self, event: StatusEvent) -> None:
        if event.state in FINAL:
            self._end(event.source)

    def close(self) -> None:
        try:
            for source in list(self._open):
                self._end(source)
        finally:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _end(self, source: str) -> None:
        if segment := self._open.pop(source, None):
            segment.close()

    def _new_path(self, frame: StreamFrame) -> Path:
        moment = datetime.fromtimestamp(frame.wall_time, timezone.utc)
        text = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z"
        stem, number = f"{slug(frame.source)}_{text}", 1
        path = self._folder / f"{stem}.afdet.mp4"
        while path.exists():  # The clock may have been set back.
            number += 1
            path = self._folder / f"{stem}-{number}.afdet.mp4"
        return path

    def _has_space(self) -> bool:
        """Whether the disk has room, which is made if needed and possible."""
        now = time.monotonic()
        if self._keep_free == 0 or now - self._looked < LOOK:
            return not self._paused
        self._looked = now
        was, self._paused = self._paused, not self._make_room()
        if self._paused and not was:
            log.warning("%s: the disk is full; recording pauses", self.name)
            for source in list(self._open):
                self._end(source)
        elif was and not self._paused:
            log.info("%s: recording goes on", self.name)
        return not self._paused

    def _make_room(self) -> bool:
        """Deletes old recordings until enough is free; none if all of them would not suffice."""
        missing = self._keep_free - self._free()
        if missing <= 0:
            return True
        old = self._own_files()
        if sum(size for _, size in old) < missing:
            return False
        for path, size in old:
            if missing <= 0:
                break
            log.info("%s: deletes %s to keep space free", self.name, path.name)
            try:
                path.unlink()
                missing -= size
            except OSError as error:
                log.warning("%s: cannot delete %s: %s", self.name, path.name, error.strerror)
        return self._free() >= self._keep_free

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError as error:
            raise write_error(self._folder, error) from error

    def _own_files(self) -> list[tuple[Path, int]]:
        """Finished recordings of this sink with their sizes, the oldest first."""
        in_use = {segment.path.name for segment in self._open.values()}
        found: list[tuple[str, Path, int]] = []
        for path in self._folder.iterdir():
            match = _OWN.fullmatch(path.name)
            if match and path.name not in in_use and path.is_file() and not path.is_symlink():
                found.append((match[1], path, path.stat().st_blocks * 512))
        return [(path, size) for _, path, size in sorted(found)]


class _Segment:
    """One file of one source."""

    def __init__(self, path: Path, frame: StreamFrame, codec: str, quality: int) -> None:
        av = load_av()
        self.path = path
        self._shape = frame.image.shape
        self._first = self._latest = _moment(frame)
        self._file = _WholeWrites(path)
        # Each frame is a fragment, written at once and by one call: a kill costs the latest frame,
        # and written data never changes.
        flags = "empty_moov+default_base_moof+frag_every_frame"
        options = {"movflags": flags, "fflags": "flush_packets"}
        self._container: Any = av.open(
            self._file, "w", format="mp4", options=options, buffer_size=1 << 20
        )
        begun = datetime.fromtimestamp(frame.wall_time, timezone.utc)
        self._container.metadata["creation_time"] = begun.isoformat()
        self._container.metadata["title"] = frame.source
        size = self._shape[1], self._shape[0]
        self._encoder = Encoder(self._container, codec, size, quality=quality)

    def takes(self, frame: StreamFrame, length: float) -> bool:
        moment = _moment(frame)
        return (
            frame.image.shape == self._shape
            and not (length and moment - self._first >= length)
            and 0 <= moment - self._latest <= LONGEST_PAUSE
        )

    def add(self, image: Any, frame: StreamFrame) -> None:
        self._latest = _moment(frame)
        with self._errors():
            self._encoder.encode(image, self._latest - self._first)

    def close(self) -> None:
        try:
            with self._errors():
                self._encoder.finish()
                self._container.close()
        finally:
            self._file.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, self._file.error or error) from error


def _moment(frame: StreamFrame) -> float:
    """Seconds on the clock of the recording: of the file that is read, or of the capture."""
    return frame.captured if frame.position is None else frame.position


class _WholeWrites:
    """A new file for FFmpeg: written front to back, each piece in full or not at all."""

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None  # The first one, as FFmpeg tells less.
        try:
            self._file: IO[bytes] = path.open("xb", buffering=0)
        except OSError as error:
            raise write_error(path, error) from error

    def write(self, data: bytes) -> int:
        if self.error is not None:  # FFmpeg goes on after an error; the file must not.
            raise self.error
        try:
            write_whole(self._file.fileno(), data)
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def close(self) -> None:
        self._file.close()


def repair(path: Path) -> None:
    """Cuts a torn fragment off a recording, so that every reader likes the file.

    A recording without a frame is deleted; a closed one is not touched. Raises OSError.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LAST_BOX + 4))
        if file.read(4) == b"mfro":
            return
        whole = _whole_fragments(file, size)
        if whole:
            file.truncate(whole)
    if not whole:
        path.unlink()


def _whole_fragments(file: BinaryIO, size: int) -> int:
    """Bytes up to the end of the last complete fragment; 0 without one."""
    end, place, after_moof = 0, 0, False
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        # Longer boxes and boxes "to the end" are not written by this program: damage.
        if length < 8 or place + length > size:
            break
        place += length
        if kind == b"mdat" and after_moof:
            end = place
        after_moof = kind == b"moof"
    return end
