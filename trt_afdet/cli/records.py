"""``trt-afdet records``: read files of records, or print their JSON Schema."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "print each frame of a file of records once, or the records' JSON Schema"

EPILOG = """\
examples:
  trt-afdet records found.jsonl | jq .detections
  trt-afdet records found.jsonl.1 found.jsonl
  trt-afdet records --schema > records.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    text = "what detect --jsonl, a jsonl: or a csv: sink wrote; of a rotated file all parts, the "
    text += "oldest first"
    parser.add_argument("file", metavar="FILE", nargs="*", type=Path, help=text)
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a record")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.errors import InvalidValueError
    from trt_afdet.records import SCHEMA_FILE, dumps, read_records

    if args.schema == bool(args.file):
        raise InvalidValueError("records needs either files or --schema")
    if args.schema:
        print(SCHEMA_FILE.read_text(encoding="utf-8"), end="")
    else:
        for record in read_records(*args.file):
            print(dumps(record))
    return 0
