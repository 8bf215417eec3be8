"""TensorRT-RTX as a fixture, and the helpers of the builder's tests."""

from __future__ import annotations

import pytest

from tests.plugins.tensorrt_parts import TensorRT
from tests.trt_afdet.engine.engine_commands import find_rtx


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """A Python with TensorRT-RTX, and this package."""
    return find_rtx()
