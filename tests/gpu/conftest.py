"""Tests on a real GPU: the runtime's own, once more, with nothing emulated but the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from skips import skip_test

TESTS = Path(__file__).parents[1] / "trt_afdet"
sys.path += [str(TESTS), str(TESTS / "runtime")]

from gpu_rig import GpuRig, why_not  # noqa: E402 - lies beside this file, needs the paths above.


@pytest.fixture
def rig() -> Iterator[GpuRig]:
    reason = why_not()
    if reason:
        skip_test(reason, "make gpu-check")
    with GpuRig() as made:
        yield made
