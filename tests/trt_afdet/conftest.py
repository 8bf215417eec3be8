"""Real TensorRTs as fixtures: RTX, which builds, and the bindings of every other version."""

from __future__ import annotations

import pytest

from tests.plugins.tensorrt_parts import PartMissingError, TensorRT, tensorrt_85, tensorrt_rtx
from tests.skips import skip_test
from tests.trt_afdet.engine.engine_commands import find_rtx
from tests.trt_afdet.engine.tensorrt_bindings import tensorrt_bindings
from trt_afdet.trt.versions import VERSIONS


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """A Python with TensorRT-RTX, and this package."""
    return find_rtx()


@pytest.fixture(scope="session", params=VERSIONS)
def any_tensorrt(request: pytest.FixtureRequest) -> tuple[str, TensorRT]:
    """The name of a version, one of VERSIONS, and a Python that has it."""
    return request.param, _find(request.param)


@pytest.fixture(scope="session")
def every_tensorrt() -> dict[str, TensorRT]:
    """All of them, by name."""
    return {version: _find(version) for version in VERSIONS}


def _find(version: str) -> TensorRT:
    try:
        if version == "8.5":
            return tensorrt_85()
        if version.startswith("RTX"):
            return tensorrt_rtx()
        return tensorrt_bindings(version)
    except PartMissingError as error:
        skip_test(error, error.brings)
