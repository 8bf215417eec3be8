"""Shared by all tests: the native libraries of a local build are found without being named."""

from __future__ import annotations

import os
from pathlib import Path

BUILT = Path(__file__).parents[1] / "build" / "host" / "lib"

if BUILT.is_dir():
    os.environ.setdefault("TRT_AFDET_LIBRARY_PATH", str(BUILT))
