"""The progress of ``detect --resume``, so that the next run continues it."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.support.files import TEXT_ERRORS, write_error, write_whole


class Journal:
    """A file that says what is done: its settings, then a line per frame, then ends of videos.

    Each line is written at once, so that even a kill loses no more than the current frame.

    Args:
        path: The file.
        settings: What must be the same in a run that goes on: name and value, as JSON has them.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.frames: Counter[str] = Counter()
        self.ended: set[str] = set()
        self._settings = settings
        self._file: IO[bytes]

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError("another detect --resume is at work here", got=self.path) from error
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def frame(self, path: Path, record: dict[str, Any]) -> None:
        """A frame is done, and its picture is written."""
        self._write({"frame": str(path), "line": record})

    def end(self, path: Path) -> None:
        """A video is done, its annotated copy in its place."""
        self._write({"end": str(path)})

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of all frames, in the order of their frames."""
        from trt_afdet.records import upgraded

        with self.path.open("rb") as file:
            for text in file:
                entry = json.loads(text)
                if "line" in entry:
                    yield upgraded(entry["line"])

    def _read(self) -> None:
        end = 0
        for text in self._file:
            if not text.endswith(b"\n"):
                break
            try:
                entry = json.loads(text)
            except ValueError:
                break
            if end == 0:
                self._compare(entry)
            elif "end" in entry:
                self.ended.add(entry["end"])
            else:
                self.frames[entry["frame"]] += 1
            end += len(text)
        os.ftruncate(self._file.fileno(), end)
        if end == 0:
            self._write(self._settings)

    def _compare(self, before: dict[str, Any]) -> None:
        names = [n for n in {**before, **self._settings} if before.get(n) != self._settings.get(n)]
        if names:
            changes = "; ".join(f"{n}: {before.get(n)}, now {self._settings.get(n)}" for n in names)
            what = "the run that was stopped had other settings"
            hint = f"use the same, or delete {self.path} to begin anew"
            raise InvalidValueError(what, got=changes, hint=hint)

    def _write(self, entry: dict[str, Any]) -> None:
        data = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", TEXT_ERRORS)
        try:
            write_whole(self._file.fileno(), data)
        except OSError as error:
            raise write_error(self.path, error) from error
