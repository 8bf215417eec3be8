"""Shared by all tests: the native libraries of a local build, and skips that say what is missing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

BUILT = Path(__file__).parents[1] / "build" / "host" / "lib"

if BUILT.is_dir():
    os.environ.setdefault("TRT_AFDET_LIBRARY_PATH", str(BUILT))

# A shell starts background jobs with Ctrl-C ignored, and so are then the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["skips"]
