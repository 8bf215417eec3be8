"""The runtime's tests run on a device made of host memory; tests/gpu runs them on the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trt_afdet.runtime.rigs import HostRig


@pytest.fixture
def rig() -> Iterator[HostRig]:
    with HostRig() as made:
        yield made
