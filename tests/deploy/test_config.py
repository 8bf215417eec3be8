"""The configurations that are shipped are ones that trt-afdet takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import ROOT
from trt_afdet.cli import main
from trt_afdet.support.packages import PACKAGES

DEPLOY = ROOT / "deploy"
MODEL = ROOT / "trt_afdet" / "assets" / "model.onnx"


def prepare(source: Path, tmp_path: Path, places: dict[str, str]) -> Path:
    """A copy in which files that only the target machine has are some of this one."""
    text = source.read_text()
    for there, here in places.items():
        assert there in text
        text = text.replace(there, here)
    copy = tmp_path / "cameras.yaml"
    copy.write_text(text)
    return copy


@pytest.mark.parametrize("name", ["etc", "compose"])
def test_run_takes_it(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line in (DEPLOY / "etc" / "trt-afdet.env").read_text().splitlines():
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    (tmp_path / "token").write_text("a-token-of-the-test\n")
    places = {"/var/lib/trt-afdet/model.engine": str(MODEL), "/var/lib": str(tmp_path)}
    if name == "compose":
        places = {
            "/models/model.onnx": str(MODEL),
            "/run/secrets/web_token": str(tmp_path / "token"),
            "/var/lib": str(tmp_path),
        }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    config = prepare(DEPLOY / name / "cameras.yaml", tmp_path, places)
    status = main(["run", "--check", str(config)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "door" in printed.out
    assert "change-me" not in printed.out + printed.err
    assert not list(tmp_path.rglob("*.jsonl"))


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", table, flags=re.MULTILINE))


def test_extras_that_are_named_exist() -> None:
    known = extras()
    assert "runtime" in known
    named = {extra for _, extra in PACKAGES.values() if extra is not None}
    for path in DEPLOY.rglob("*.Dockerfile"):
        for listed in re.findall(r"EXTRAS=([\w,]+)", path.read_text()):
            named |= set(listed.split(","))
    for listed in re.findall(r'"\.\[([\w,]+)\]"', (ROOT / "docs" / "jetson.md").read_text()):
        named |= set(listed.split(","))
    assert named <= known


def test_the_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "jetson.md").read_text() + (DEPLOY / "README.md").read_text()
    for name in set(re.findall(r"\bdeploy/[\w./-]+\.[a-z]+", text)):
        assert (ROOT / name).is_file(), name
    for page, folder in (("docs/jetson.md", "docs"), ("deploy/README.md", "deploy")):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert (ROOT / folder / link).exists(), link
