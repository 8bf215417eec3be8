"""pytest, run as `make test` runs it, collects every test file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT


def collect(folder: Path) -> tuple[set[str], set[str]]:
    """Files with collected tests, and files that skip themselves entirely."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-rs", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    tests = re.findall(r"^(\S.*?\.py)::", result.stdout, re.MULTILINE)
    skipped = re.findall(r"^SKIPPED \[\d+\] (.+?\.py):\d+: \S", result.stdout, re.MULTILINE)
    return set(tests), set(skipped)


def test_every_test_file_is_collected() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    tests, skipped = collect(ROOT)
    assert len(files) > 100
    assert not files - tests - skipped, "pytest does not collect these (see norecursedirs)"


def test_a_folder_called_build_would_be_missed_without_the_setting(tmp_path: Path) -> None:
    """Regression: pytest silently ignores folders with certain names."""
    for folder in ("build", "other"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        file = tmp_path / "tests" / folder / f"test_in_{folder}.py"
        file.write_text("def test_one() -> None: ...\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    assert collect(tmp_path) == ({"tests/other/test_in_other.py"}, set())
