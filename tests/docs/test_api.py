"""Each example of docs/api.md runs as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trt_afdet
from tests.docs.pages import Block, blocks
from tests.paths import ASSETS, ROOT
from tests.trt_afdet.engine.engine_commands import find_rtx
from trt_afdet.media import open_inputs, write_picture

API = [block for block in blocks("python") if block.page.name == "api.md"]
GPU, RTX = "```python gpu", "```python rtx"


def marked(block: Block, mark: str) -> bool:
    """Whether the fence says what the block needs."""
    return block.page.read_text(encoding="utf-8").splitlines()[block.line - 1] == mark


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name."""
    made = tmp_path_factory.mktemp("api")
    for name in ("model.onnx", "clip.mp4"):
        (made / name).symlink_to(ASSETS / name)
    data = made / "data"
    (data / "images" / "val").mkdir(parents=True)
    (data / "annotations").mkdir()
    with open_inputs(ASSETS / "clip.mp4") as clip:
        for frame in clip:
            if frame.index == 60:
                write_picture(made / "frame.png", frame.image)
                break
    shutil.copy(ASSETS / "clip.mp4", data / "images" / "val" / "clip.mp4")
    shutil.copy(ASSETS / "clip.json", data / "annotations" / "instances_val.json")
    (made / "cameras.yaml").write_text("sources: [clip.mp4]\noptions: {max_wait: 0.001}\n")
    return made


@pytest.mark.parametrize(
    "block", [b for b in API if not marked(b, GPU) and not marked(b, RTX)], ids=str
)
def test_an_example_runs(block: Block, folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", block.text],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    if "print(" in block.text:
        assert result.stdout.strip()


def test_the_example_of_an_engine_runs(folder: Path) -> None:
    rtx = find_rtx()
    (block,) = [b for b in API if marked(b, RTX)]
    result = subprocess.run(
        [rtx.python, "-c", block.text],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=rtx.env,
    )
    assert result.returncode == 0, result.stderr
    assert "HALF" in result.stdout
    assert (folder / "model.engine.json").exists()


def test_every_public_name_is_shown() -> None:
    text = "".join(block.text for block in API)
    shown = set(re.findall(r"\b\w+\b", text))
    page = (ROOT / "docs" / "api.md").read_text()
    for name in set(trt_afdet.__all__) - {"__version__", "ModelSpec", "Detection", "Detections"}:
        assert name in shown, name
    assert "Detections" in page


def test_every_public_name_can_be_imported_and_seen() -> None:
    assert sorted(trt_afdet.__all__) == trt_afdet.__all__
    for name in trt_afdet.__all__:
        assert getattr(trt_afdet, name) is not None
        assert name in dir(trt_afdet)
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        trt_afdet.Detectr  # type: ignore[attr-defined] # noqa: B018
