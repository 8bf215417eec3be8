"""The records that ``detect``, ``run`` and every sink write, and how to read files of them.

``records.schema.json`` defines every field; ``docs/records.md`` explains them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import CorruptFileError, MissingFileError
from trt_afdet.support.files import TEXT_ERRORS

Record = dict[str, Any]

#: Version of the records, their field ``schema``. New fields do not change it; a field that is
#: removed, renamed or gets another meaning does.
SCHEMA = 1
#: The JSON Schema (draft 2020-12).
SCHEMA_FILE = Path(__file__).with_name("records.schema.json")
#: Every record in JSON begins with this.
START = b'{"type": "'


def make_record(kind: str, fields: Record) -> Record:
    """A record of a kind: "result", "event" or "status"."""
    return {"type": kind, "schema": SCHEMA, **fields}


def result_fields(
    found: Detections,
    image: npt.NDArray[np.uint8],
    source: str,
    sequence: int,
    position: float | None,
) -> Record:
    """What every "result" says: of a frame's source, number there, and seconds into the video."""
    height, width = image.shape[:2]
    return {
        "source": source,
        "sequence": sequence,
        "position": None if position is None else round(position, 6),
        "width": width,
        "height": height,
        "detections": found.to_dicts(),
    }


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as ``2026-01-31T23:59:59.123Z``."""
    moment = datetime.fromtimestamp(round(seconds, 3), timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dumps(record: Record) -> str:
    """One line of JSON, without its end; what UTF-8 cannot hold is escaped."""
    line = json.dumps(record, ensure_ascii=False)
    return line.encode("utf-8", TEXT_ERRORS).decode()


def upgraded(record: Record) -> Record:
    """A record of any earlier version as this one writes it."""
    if "schema" in record:
        return record
    if "frame" not in record:
        return {"type": record["type"], "schema": SCHEMA, **record}
    # What detect wrote before its records had a version.
    milliseconds = record.get("timestamp_ms")
    position = None if milliseconds is None else round(milliseconds / 1000, 6)
    fields = {"source": record["source"], "sequence": record["frame"], "position": position}
    same = ("width", "height", "detections")
    return make_record("result", fields | {name: record[name] for name in same})


def read_records(*paths: Path | str) -> Iterator[Record]:
    """The records of a file that ``detect --jsonl`` or a ``jsonl:`` or ``csv:`` sink wrote.

    A run that starts again appends to its file and reads a video from the beginning, so a file may
    hold the same frame several times. This function yields each frame once: **for a video, a newer
    run replaces what earlier runs say, up to the last frame that the newer run reached.** Records
    of live sources and of status are all yielded. The rule goes by the source's name, so two videos
    of one name need two files. A last line that a kill cut off is left out.

    Args:
        paths: The file; if it was rotated, its parts, the oldest first.

    Yields:
        Records of the newest version; of CSV, rows with the names of its columns.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If a line in the middle is not a record, or of a newer version.
    """
    files = list(map(Path, paths))
    reached: dict[str, dict[str, int]] = {}  # Per source: the last frame of each run, in order.
    for record in _all(files):
        if record.get("position") not in (None, ""):
            runs, run = reached.setdefault(record["source"], {}), record.get("run", "")
            runs[run] = max(runs.get(run, -1), int(record["sequence"]))
    # Per source and run: the last frame that any later run reached.
    replaced: dict[tuple[str, str], int] = {}
    for source, runs in reached.items():
        last = -1
        for run in reversed(runs):
            replaced[source, run] = last
            last = max(last, runs[run])
    for record in _all(files):
        last = replaced.get((record["source"], record.get("run", "")), -1)
        if "sequence" not in record or int(record["sequence"]) > last:
            yield record


def _all(files: list[Path]) -> Iterator[Record]:
    for path in files:
        try:
            with path.open("rb") as file:
                is_csv = file.read(4) == b"run,"
        except FileNotFoundError as error:
            raise MissingFileError("there is no such file of records", got=path) from error
        yield from _rows(path) if is_csv else _lines(path)


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # A kill cut it off; the next start of the sink removes it.
            try:
                record = upgraded(json.loads(line))
                _ = record["source"]
                newer = record["schema"] > SCHEMA
            except (ValueError, KeyError, TypeError) as error:
                got = f"{path}, line {number}"
                raise CorruptFileError("a line is not a record", got=got) from error
            if newer:
                what = f"a record is of version {record['schema']}, this program knows {SCHEMA}"
                got = f"{path}, line {number}"
                raise CorruptFileError(what, got=got, hint="update trt-afdet")
            yield record


def _rows(path: Path) -> Iterator[Record]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        whole = (line for line in file if line.endswith("\n"))
        for _, group in groupby(csv.DictReader(whole), itemgetter("run", "number")):
            rows = list(group)
            # A frame whose rows were cut off is not there.
            if len(rows) == int(rows[0]["count"]):
                yield from rows
