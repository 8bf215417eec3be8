"""TensorRT's parts as fixtures. A test skips only if a part it uses is missing, and names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.plugins.tensorrt_parts import (
    BRINGS_HEADERS,
    PartMissingError,
    TensorRT,
    build_plugins,
    find_cmake,
    headers_folder,
    tensorrt_85,
    tensorrt_rtx,
    version_key,
)
from tests.skips import skip_test


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """A Python with TensorRT-RTX."""
    try:
        return tensorrt_rtx()
    except PartMissingError as error:
        skip_test(error, error.brings)


@pytest.fixture(scope="session")
def trt85() -> TensorRT:
    """A Python with TensorRT 8.5.3."""
    try:
        return tensorrt_85()
    except PartMissingError as error:
        skip_test(error, error.brings)


@pytest.fixture(scope="session")
def cmake() -> str:
    """The path of CMake."""
    try:
        return find_cmake()
    except PartMissingError as error:
        skip_test(error, error.brings)


@pytest.fixture(scope="session")
def headers() -> Path:
    """A folder of headers per TensorRT version."""
    try:
        return headers_folder()
    except PartMissingError as error:
        skip_test(error, error.brings)


@pytest.fixture(scope="session")
def plugins(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The plugin built against every TensorRT whose headers are available, by version."""
    try:
        return build_plugins(headers, tmp_path_factory.mktemp("matrix"))
    except PartMissingError as error:
        skip_test(error, error.brings)


@pytest.fixture(scope="session")
def plugin_for_rtx(headers: Path, plugins: dict[str, Path]) -> Path:
    """The plugin built for TensorRT-RTX: its headers equal TensorRT 11's except the version."""
    newest = max(plugins, key=version_key)
    if int(newest.partition(".")[0]) < 11:
        skip_test("headers of TensorRT 11", BRINGS_HEADERS)
    build = plugins[newest].parents[1]
    include = build / "headers" / "rtx" / "include"
    # Copies: compilers look beside what a link points to.
    shutil.copytree(headers / newest / "include", include)
    numbers = zip(("MAJOR", "MINOR", "PATCH", "BUILD"), (1, 7, 1, 116), strict=True)
    lines = [
        f"#define TRT_{name}_RTX {number}\n#define NV_TENSORRT_{name} TRT_{name}_RTX\n"
        for name, number in numbers
    ]
    (include / "NvInferVersion.h").write_text("#pragma once\n" + "".join(lines))
    return build_plugins(build / "headers", build)["rtx"]
