"""Results in files: JSON lines and CSV.

Every detection of a processed frame is written once; the next start removes what a kill has left of
an incomplete frame. :func:`trt_afdet.records.read_records` reads what several runs have appended.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from trt_afdet.records import START, Record, dumps
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.sinks.appending import AppendingFile, Fsync
from trt_afdet.stream.sinks.recorder import Contents, Recorder
from trt_afdet.support.files import TEXT_ERRORS


class _TextFileSink:
    """A sink that appends to a file, or writes to a device such as ``/dev/stdout``."""

    durable = True

    def __init__(self, kind: str, file: AppendingFile, send: Contents) -> None:
        self.name = f"{kind} {file.path}"
        self.path = file.path
        self._file = file
        self._recorder = Recorder(send)

    def open(self) -> None:
        self._file.open()

    def close(self) -> None:
        self._file.close()


class JsonLinesSink(_TextFileSink):
    """One record as a line of JSON per processed frame and per change of state."""

    def __init__(
        self, path: Path, fsync: Fsync = "second", send: Contents = ("results", "status")
    ) -> None:
        file = AppendingFile(path, start=START, complete=_is_json, fsync=fsync)
        super().__init__("jsonl", file, send)

    def write(self, result: StreamResult) -> None:
        self._append(self._recorder.result(result))

    def status(self, event: StatusEvent) -> None:
        self._append(self._recorder.status(event))

    def _append(self, records: list[Record]) -> None:
        if records:
            self._file.append("".join(f"{dumps(r)}\n" for r in records).encode())


#: A row is a detection: number ``index`` of the ``count`` in its frame. Frames without one leave
#: no row.
COLUMNS = (
    "run", "number", "source", "sequence", "time", "position", "width", "height", "detected",
    "count", "index", "class_id", "class", "confidence", "x1", "y1", "x2", "y2", "tracker_id",
)  # fmt: skip
_COUNT, _INDEX = COLUMNS.index("count"), COLUMNS.index("index")


class CsvSink(_TextFileSink):
    """One row per detection, with the columns :data:`COLUMNS`."""

    def __init__(self, path: Path, fsync: Fsync = "second") -> None:
        header = f"{','.join(COLUMNS)}\n".encode()
        file = AppendingFile(path, start=header, complete=_ends_frame, header=header, fsync=fsync)
        super().__init__("csv", file, ("results",))

    def write(self, result: StreamResult) -> None:
        for record in self._recorder.result(result):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(_rows(record))
            if text.tell():
                self._file.append(text.getvalue().encode("utf-8", TEXT_ERRORS))

    def status(self, event: StatusEvent) -> None:
        """Changes of state are not written."""


def _rows(record: Record) -> list[list[object]]:
    found = record["detections"]
    frame = {**record, "source": _one_line(record["source"]), "count": len(found)}
    rows = []
    for index, item in enumerate(found):
        sides = dict(zip(("x1", "y1", "x2", "y2"), item["box"], strict=True))
        row = {**frame, **item, **sides, "index": index, "class": _one_line(item["class"])}
        rows.append([row.get(column) for column in COLUMNS])
    return rows


def _one_line(text: str) -> str:
    """A row is a line, whatever a name holds: a torn file could not be repaired otherwise."""
    return " ".join(text.splitlines())


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _ends_frame(line: bytes) -> bool:
    """Whether a row is a frame's last, or the header."""
    try:
        row = next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error):
        return False
    if len(row) != len(COLUMNS) or not (row[_COUNT].isdigit() and row[_INDEX].isdigit()):
        return tuple(row) == COLUMNS
    return int(row[_INDEX]) == int(row[_COUNT]) - 1
