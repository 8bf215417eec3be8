"""What the pages show is true: commands and options exist, YAML is valid, links lead somewhere."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, Block, blocks, commands
from tests.paths import ROOT
from trt_afdet.cli import build_parser
from trt_afdet.stream.config.schema import load_config

SHELL = blocks("bash", "sh", "console")
YAML = [b for b in blocks("yaml") if re.search(r"^sources:", b.text, re.MULTILINE)]


@pytest.mark.parametrize("block", [b for b in SHELL if commands(b)], ids=str)
def test_every_command_line_is_understood(
    block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that were renamed, or never were, show here."""
    for program, *words in commands(block):
        line = words if program == "trt-afdet" else ["build-engine", *words]
        if not line:
            continue
        parser = build_parser(line[0] if not line[0].startswith("-") else None)
        # `path or text` arguments may look at files, which a page does not bring.
        monkeypatch.setattr(argparse.ArgumentParser, "_get_value", lambda self, action, text: text)
        status = 0
        try:
            parser.parse_args(line)
        except SystemExit as stop:  # --help and mistakes
            status = int(stop.code or 0)
        assert status == 0, f"{' '.join(line)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("block", YAML, ids=str)
def test_every_cameras_yaml_is_valid(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\$\{(\w+)", block.text):
        monkeypatch.setenv(name, "secret-of-a-test")
    path = tmp_path / "cameras.yaml"
    path.write_text(block.text)
    assert load_config(path).config.sources


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_the_site_builds(tmp_path: Path) -> None:
    """Pages outside the navigation, dead links and unknown names are errors."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e .[docs]")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert result.returncode == 0, result.stderr
    pages = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert {page.stem for page in PAGES if page.parent.name == "docs"} - {"index"} <= pages
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "Detector" in reference
    assert "Detections" in reference
