"""TensorRT's parts as fixtures: a test skips only on the one that is missing, and names it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tensorrt_parts import PartMissingError, TensorRT, headers_folder, tensorrt_85, tensorrt_rtx

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """A Python with TensorRT-RTX."""
    try:
        return tensorrt_rtx()
    except PartMissingError as error:
        pytest.skip(f"missing: {error}")


@pytest.fixture(scope="session")
def trt85() -> TensorRT:
    """A Python with TensorRT 8.5.3."""
    try:
        return tensorrt_85()
    except PartMissingError as error:
        pytest.skip(f"missing: {error}")


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The plugin built against every TensorRT whose headers are at hand, by version."""
    try:
        headers = headers_folder()
    except PartMissingError as error:
        pytest.skip(f"missing: {error}")
    if shutil.which("nvcc") is None:
        pytest.skip("missing: nvcc is not on PATH")
    build = tmp_path_factory.mktemp("matrix")
    result = subprocess.run(
        [str(ROOT / "plugins/tensorrt/matrix.sh"), str(headers), str(build)],
        capture_output=True,
        text=True,
        check=False,
    )
    # Every warning is an error there.
    assert result.returncode == 0, result.stdout + result.stderr
    found = {p.parent.name: p for p in build.glob("*/libafdet_plugin.so")}
    assert set(found) == {p.parents[1].name for p in headers.glob("*/include/NvInfer.h")}
    return found
