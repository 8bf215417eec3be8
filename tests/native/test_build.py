"""What CMake builds, and what it says of what it leaves out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.skips import skip_test


@pytest.fixture(scope="module")
def cmake() -> str:
    beside = Path(sys.executable).parent / "cmake"
    found = str(beside) if beside.exists() else shutil.which("cmake")
    if not found:
        skip_test("cmake is not installed", "pip install cmake")
    return found


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment in which a few shell tools are, and no compiler."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "make", "uname"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    hidden = {"CC", "CXX", "CUDACXX", "CUDA_PATH"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"PATH": str(tools)}


def configure(
    cmake: str, build: Path, *options: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [cmake, "-S", str(ROOT), "-B", str(build), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.fixture(scope="module")
def compilers() -> list[str]:
    """Every C++ compiler that the C++ tests run with."""
    script = ROOT / "plugins" / "tests" / "all_compilers.sh"
    command = [str(script), "--paths", sys.executable]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def test_without_a_compiler_the_install_goes_on_with_one_warning(
    cmake: str, tmp_path: Path, no_compiler: dict[str, str]
) -> None:
    result = configure(cmake, tmp_path / "b", env=no_compiler)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("CMake Warning") == 1
    assert "no C++ compiler found" in result.stderr
    assert "NumPy" in result.stderr


def test_without_nvcc_one_line_says_so(
    cmake: str, tmp_path: Path, no_compiler: dict[str, str], compilers: list[str]
) -> None:
    # CMake also looks where CUDA is usually installed; a path that does not exist hides that.
    env = no_compiler | {"CXX": compilers[0], "PATH": no_compiler["PATH"] + ":/usr/bin:/bin"}
    env["CUDACXX"] = "/nonexistent/nvcc"
    result = configure(cmake, tmp_path / "auto", env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("trt-afdet: no CUDA compiler found") == 1
    result = configure(cmake, tmp_path / "on", "-DAFDET_CUDA=ON", env=env)
    assert result.returncode != 0
    assert "AFDET_CUDA=ON, but no CUDA compiler was found" in result.stderr


def test_fast_math_does_not_compile(compilers: list[str], tmp_path: Path) -> None:
    source = tmp_path / "fast.cpp"
    source.write_text('#include "core/box.hpp"\nint main() { return 0; }\n')
    options = ["-std=c++17", f"-I{ROOT}/plugins", f"-I{ROOT}/plugins/include"]
    for compiler in compilers:
        for flags in ([], ["-ffast-math"]):
            command = [
                compiler,
                *options,
                *flags,
                "-c",
                str(source),
                "-o",
                str(tmp_path / "fast.o"),
            ]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (result.returncode == 0) is not bool(flags), result.stderr
            assert not flags or "fast-math" in result.stderr
