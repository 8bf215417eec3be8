"""`build-engine` as a command line, in a Python that has TensorRT-RTX."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.plugins.tensorrt_parts import PartMissingError, TensorRT, tensorrt_rtx
from tests.skips import skip_test

#: Compute capabilities that engines are built for in the tests.
SMS = ("8.6", "8.9", "12.0")


def find_rtx() -> TensorRT:
    """A Python with TensorRT-RTX, and this package; skips the test where there is none."""
    try:
        return tensorrt_rtx()
    except PartMissingError as error:
        skip_test(error, error.brings)


#: Runs command lines one after the other; a line of JSON each.
COMMANDS = """
import contextlib, io, json, sys
from trt_afdet.cli import main

for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    def complaint(self) -> str:
        """The one line that it failed with."""
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("trt-afdet: error: ")
        return lines[0]


def run(rtx: TensorRT, *commands: list[Any]) -> list[Outcome]:
    words = [["build-engine", *map(str, command)] for command in commands]
    result = rtx.run(COMMANDS, json.dumps(words))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("[")]
    return [Outcome(*json.loads(line)) for line in lines]


def only(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
