"""``trt-afdet doctor``: what this machine has, and how to get the rest."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "show what this machine has of what trt-afdet can use, and how to get the rest"

EPILOG = """\
Each row is ok, warn (something optional is missing) or fail (trt-afdet cannot work so), with what
to do about it. The exit status is 1 if a row fails.
"""

_COLORS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.doctor import examine

    rows = examine()
    if args.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            status = row.status.ljust(4)
            if sys.stdout.isatty():
                status = f"{_COLORS[row.status]}{status}\033[0m"
            print(f"{status}  {row.name.ljust(width)}  {row.detail}")
            if row.fix:
                print(f"{' ' * (width + 8)}fix: {row.fix}")
    return int(any(row.status == "fail" for row in rows))
