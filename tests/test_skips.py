"""Skips say what is missing and what brings it; the end of a run groups them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.parametrize("number", range(3))
def test_server(number):
    pytest.skip("nginx is not installed: make peers")

def test_broker():
    pytest.skip("mosquitto is not installed: make peers")

@pytest.mark.skipif(True, reason="needs an NVIDIA GPU: make gpu-check")
def test_marked():
    pass

@pytest.mark.xfail(reason="not a skip")
def test_expected():
    assert False
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text("from tests.skips import *\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_end_of_a_run_groups_them(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SUITE)
    (tmp_path / "test_module.py").write_text(
        "import pytest\n"
        'pytest.skip("vizdoom is not installed: pip install vizdoom", allow_module_level=True)\n'
    )
    result = run(tmp_path)
    assert result.returncode == 0, result.stdout
    _, _, summary = result.stdout.partition("6 skipped: what brings them ")
    assert summary.splitlines()[1:-1] == [
        "make gpu-check",
        "     1  needs an NVIDIA GPU",
        "make peers",
        "     1  mosquitto is not installed",
        "     3  nginx is not installed",
        "pip install vizdoom",
        "     1  vizdoom is not installed",
    ]


@pytest.mark.parametrize(
    "reason", ["", "not today", "missing: nginx", "nginx: ", ": make peers", "needs\\nnginx: x"]
)
@pytest.mark.parametrize("where", ["call", "mark", "module"])
def test_a_skip_that_says_less_fails(tmp_path: Path, where: str, reason: str) -> None:
    body = {
        "call": f'def test_one():\n    pytest.skip("{reason}")\n',
        "mark": f'@pytest.mark.skipif(True, reason="{reason}")\ndef test_one():\n    pass\n',
        "module": f'pytest.skip("{reason}", allow_module_level=True)\n',
    }[where]
    (tmp_path / "test_one.py").write_text(f"import pytest\n\n{body}")
    result = run(tmp_path)
    assert result.returncode != 0
    assert "must say what is missing and what brings it" in result.stdout


def test_a_run_without_skips_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one(): ...\n")
    assert "skipped" not in run(tmp_path).stdout
