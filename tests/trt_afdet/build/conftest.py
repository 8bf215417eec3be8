"""Real TensorRTs as fixtures: RTX, which builds, and the bindings of every other version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from skips import skip_test

TESTS = Path(__file__).parents[2]
for folder in (TESTS / "plugins", TESTS / "trt_afdet" / "runtime"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from engine_commands import find_rtx  # noqa: E402
from tensorrt_bindings import tensorrt_bindings  # noqa: E402
from tensorrt_parts import PartMissingError, TensorRT, tensorrt_85, tensorrt_rtx  # noqa: E402

from trt_afdet.build.flavours import VERSIONS  # noqa: E402


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
