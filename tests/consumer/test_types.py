"""Type hints reach users: a project that imports trt_afdet, checked by mypy as its owner would."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.paths import ROOT

PROJECT = Path(__file__).with_name("project.py")

WRONG = {
    "Detector().detekt('x.jpg')": 'has no attribute "detekt"',
    "Detector(conf='high')": "incompatible type",
    "trt_afdet.Detektor": 'has no attribute "Detektor"',
    "Detector()('x.jpg').confidance": 'has no attribute "confidance"',
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment whose site-packages holds the package, as an installation does."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "trt_afdet").symlink_to(ROOT / "trt_afdet")
    # Where this environment's packages are, those that its own .pth files add included.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return folder / "bin" / "python"


def check(python: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file="),
            *("--python-executable", str(python), "--cache-dir", str(file.parent / "cache")),
            str(file),
        ],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_project_passes_strictly(python: Path, tmp_path: Path) -> None:
    file = tmp_path / "project.py"
    file.write_text(PROJECT.read_text())
    result = check(python, file)
    assert result.returncode == 0, result.stdout + result.stderr


def test_mistakes_are_found(python: Path, tmp_path: Path) -> None:
    """Names from lazy imports are typed, not Any."""
    file = tmp_path / "mistakes.py"
    lines = ["import trt_afdet", "from trt_afdet import Detector", *WRONG]
    file.write_text("\n".join(lines) + "\n")
    output = check(python, file).stdout
    for number, message in enumerate(WRONG.values(), 3):
        start = f"mistakes.py:{number}:"
        found = [line for line in output.splitlines() if line.startswith(start)]
        assert found, output
        assert any(message in line for line in found)
