"""TensorRT-RTX as a fixture, and the helpers of the builder's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
for folder in (TESTS / "plugins", TESTS / "trt_afdet" / "build"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from engine_commands import find_rtx  # noqa: E402
from tensorrt_parts import TensorRT  # noqa: E402


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """A Python with TensorRT-RTX, and this package."""
    return find_rtx()
