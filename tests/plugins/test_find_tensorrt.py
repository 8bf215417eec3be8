"""The build finds TensorRT's headers, and prints a message without them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.tensorrt_parts import ROOT

Finder = Callable[..., dict[str, str]]

PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(finder LANGUAGES NONE)
list(APPEND CMAKE_MODULE_PATH "{modules}")
set(CMAKE_FIND_LIBRARY_PREFIXES lib)
set(CMAKE_FIND_LIBRARY_SUFFIXES .so)
find_package(TensorRT QUIET)
message(STATUS "found: ${{TensorRT_FOUND}} ${{TensorRT_VERSION}}")
message(STATUS "include: ${{TensorRT_INCLUDE_DIR}}")
message(STATUS "library: ${{TensorRT_LIBRARY}}")
"""

PLAIN = "#define NV_TENSORRT_{0} {1} //!< TensorRT version.\n"
ENTERPRISE = "#define TRT_{0}_ENTERPRISE {1}\n#define NV_TENSORRT_{0} TRT_{0}_ENTERPRISE //!<\n"
RTX = "#define TRT_{0}_RTX {1}\n#define NV_TENSORRT_{0} TRT_{0}_RTX //!<\n"


def make_headers(include: Path, spelling: str = PLAIN, version: str = "8.5.3") -> Path:
    include.mkdir(parents=True)
    (include / "NvInfer.h").touch()
    numbers = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    (include / "NvInferVersion.h").write_text("".join(spelling.format(*n) for n in numbers))
    return include


@pytest.fixture
def find(cmake: str, tmp_path: Path) -> Finder:
    """Runs the module in a separate project; returns its results by name."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(PROJECT.format(modules=(ROOT / "cmake").as_posix()))

    def run(*options: str, **environment: str) -> dict[str, str]:
        known = {k: v for k, v in os.environ.items() if k.upper() != "TENSORRT_ROOT"}
        result = subprocess.run(
            [cmake, "-S", str(project), "-B", str(tmp_path / "build"), *options],
            capture_output=True,
            text=True,
            check=False,
            env=known | environment,
        )
        assert result.returncode == 0, result.stderr
        pairs = (line.removeprefix("-- ").split(": ") for line in result.stdout.splitlines())
        return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}

    return run


@pytest.mark.parametrize(
    ("spelling", "version"), [(PLAIN, "8.5.3"), (ENTERPRISE, "10.16.1"), (RTX, "1.7.1")]
)
def test_every_spelling_of_the_version(
    find: Finder, tmp_path: Path, spelling: str, version: str
) -> None:
    include = make_headers(tmp_path / "trt" / "include", spelling, version)
    found = find(f"-DTensorRT_ROOT={tmp_path / 'trt'}")
    assert found["found"] == f"TRUE {version}"
    assert Path(found["include"]) == include


@pytest.mark.parametrize(
    ("include", "library"),
    [
        ("include", "lib"),  # tar
        ("include/aarch64-linux-gnu", "lib/aarch64-linux-gnu"),  # JetPack
        ("include/x86_64-linux-gnu", "lib/x86_64-linux-gnu"),  # deb
        ("targets/x86_64-linux-gnu/include", "targets/x86_64-linux-gnu/lib"),
    ],
)
def test_every_layout(find: Finder, tmp_path: Path, include: str, library: str) -> None:
    root = tmp_path / "trt"
    make_headers(root / include)
    (root / library).mkdir(parents=True, exist_ok=True)
    (root / library / "libnvinfer.so").touch()
    found = find(TensorRT_ROOT=str(root))
    assert Path(found["include"]) == root / include
    assert Path(found["library"]).resolve() == root / library / "libnvinfer.so"


@pytest.mark.parametrize("name", ["TensorRT_INCLUDE_DIR", "TENSORRT_INCLUDE_DIR"])
def test_the_folder_itself(find: Finder, tmp_path: Path, name: str) -> None:
    include = make_headers(tmp_path / "anywhere")
    assert find(f"-D{name}={include}")["found"] == "TRUE 8.5.3"


def test_a_root_that_was_named_is_meant(find: Finder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert find(f"-DTensorRT_ROOT={tmp_path / 'empty'}")["found"] == "FALSE"


def test_headers_without_a_version_are_none(find: Finder, tmp_path: Path) -> None:
    include = make_headers(tmp_path / "trt" / "include")
    (include / "NvInferVersion.h").unlink()
    assert find(f"-DTensorRT_ROOT={tmp_path / 'trt'}")["found"] == "FALSE"


@pytest.mark.parametrize("headers", ["", "nowhere"])
def test_the_matrix_says_what_is_missing(headers: str) -> None:
    result = subprocess.run(
        ["make", "--no-print-directory", "plugin-matrix", f"HEADERS={headers}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert f"no headers (got HEADERS='{headers}') - give a folder" in result.stderr
