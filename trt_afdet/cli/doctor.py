"""``trt-afdet doctor``: what this machine has, and how to get the rest."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "show what this machine has of what trt-afdet can use, and how to get the rest"

EPILOG = """\
examples:
  trt-afdet doctor
  trt-afdet doctor --for run --for web

A row is "ok", "fix" (something that you need is missing or broken) or "not needed" (missing, but
nothing that you do needs it), with what to do about it. What you do is taken from the packages that
are installed, or from --for. The exit status is 1 if a row says "fix".
"""

_COLORS = {"ok": "\033[32m", "not needed": "\033[2m", "fix": "\033[31m"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trt_afdet.doctor import USES

    parser.epilog = EPILOG
    text = f"what the machine is for: {', '.join(USES)}; may be repeated (default: what the "
    text += "installed packages are for)"
    add = parser.add_argument
    add("--for", dest="uses", action="append", choices=USES, metavar="USE", help=text)
    add("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.doctor import examine, uses_here

    uses = tuple(args.uses or uses_here())
    rows = examine(uses=uses)
    fixes = sum(row.status == "fix" for row in rows)
    if args.json:
        print(json.dumps([vars(row) for row in rows], indent=2))
        return int(fixes > 0)
    width = max(len(row.name) for row in rows)
    column = max(len(status) for status in _COLORS)
    for row in rows:
        status = row.status.ljust(column)
        if sys.stdout.isatty():
            status = f"{_COLORS[row.status]}{status}\033[0m"
        print(f"{status}  {row.name.ljust(width)}  {row.detail}")
        # Rows that are not needed stay short; --json and --for show their hints.
        if row.fix and row.status != "not needed":
            word = "fix" if row.status == "fix" else "to change it"
            print(f"{' ' * (width + column + 4)}{word}: {row.fix}")
    needed = f"{fixes} to fix" if fixes else "nothing to fix"
    print(f"{needed}, for: {', '.join(uses)}")
    return int(fixes > 0)
