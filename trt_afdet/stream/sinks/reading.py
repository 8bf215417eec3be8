"""Reads what the file sinks wrote, each frame exactly once however often the program was killed.

A run that is started again reads a video file from its beginning, and its sink appends to what the
run before left. So a frame of a file may be there from several runs, and this is the rule for
readers: **of a file, a run replaces what earlier runs say up to the last frame it reached.** Live
sources never see a moment twice; all their records count.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from trt_afdet.errors import CorruptFileError, MissingFileError

Record = dict[str, Any]


def read_records(*paths: Path | str) -> Iterator[Record]:
    """The records of one ``jsonl:`` or ``csv:`` sink, each frame of a file from its newest run.

    A name stands for one video here: let two videos of one name write to two files. Records of
    status come as they are. A last line that a kill cut off is left out.

    Args:
        paths: The file; if it was rotated, its parts, the oldest first.

    Yields:
        Records as ``serialise.py`` describes them; of CSV, rows with the names of its columns.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If a line in the middle is no record.
    """
    files = [Path(path) for path in paths]
    reached: dict[str, dict[str, int]] = {}  # Per source: the last frame of each run, in order.
    for record in _all(files):
        if _is_of_a_file(record):
            runs = reached.setdefault(record["source"], {})
            runs[record["run"]] = max(runs.get(record["run"], -1), int(record["sequence"]))
    # Per source and run: the last frame that any later run reached.
    replaced: dict[tuple[str, str], int] = {}
    for source, runs in reached.items():
        last = -1
        for run in reversed(runs):
            replaced[source, run] = last
            last = max(last, runs[run])
    for record in _all(files):
        last = replaced.get((record["source"], record["run"]), -1)
        if "sequence" not in record or int(record["sequence"]) > last:
            yield record


def _is_of_a_file(record: Record) -> bool:
    return record.get("position") not in (None, "")


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
                record = json.loads(line)
                _ = record["run"], record["source"]
            except (ValueError, KeyError, TypeError) as error:
                raise CorruptFileError(
                    "a line is no record", got=f"{path}, line {number}"
                ) from error
            yield record


def _rows(path: Path) -> Iterator[Record]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        whole = (line for line in file if line.endswith("\n"))
        frames = groupby(csv.DictReader(whole), lambda row: (row["run"], row["number"]))
        for _, group in frames:
            rows = list(group)
            # A frame whose rows were cut off is not there.
            if len(rows) == int(rows[0]["count"]):
                yield from rows
