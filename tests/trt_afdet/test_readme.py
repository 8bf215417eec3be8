"""What the README shows runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT
from trt_afdet.assets import ASSETS
from trt_afdet.media import open_inputs, write_picture

README = ROOT / "README.md"


def test_the_example_finds_objects(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "model.onnx").symlink_to((ASSETS / "model.onnx").resolve())
    with open_inputs(ASSETS / "clip.mp4") as clip:
        frame = next(frame.image for frame in clip if frame.index == 60)
    write_picture(tmp_path / "frame.png", frame)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert result.returncode == 0, result.stderr
    assert "imp" in result.stdout or "barrel" in result.stdout, result.stdout
    assert (tmp_path / "annotated.png").stat().st_size > 10_000
