"""Tests on a real GPU: the runtime's own, once more, with nothing emulated but the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gpu.gpu_rig import GpuRig, why_not
from tests.skips import skip_test


@pytest.fixture
def rig() -> Iterator[GpuRig]:
    reason = why_not()
    if reason:
        skip_test(reason, "make gpu-check")
    with GpuRig() as made:
        yield made
