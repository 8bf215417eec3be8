"""Shared by all tests: the native libraries of a local build, and what skips must say."""

from __future__ import annotations

import os
import signal

from tests.paths import ROOT
from tests.skips import (  # noqa: F401
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

BUILT = ROOT / "build" / "host" / "lib"

if BUILT.is_dir():
    os.environ.setdefault("TRT_AFDET_LIBRARY_PATH", str(BUILT))

# The threads of a parallel loop wait for one another at its end: on a busy machine that takes far
# longer than the small networks of the tests take on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and so are then the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
