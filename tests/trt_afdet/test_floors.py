"""The oldest release that the project says it takes of each package really works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import trt_afdet
from tests.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

#: What trains and drives GPUs on other machines; too large to install here.
TORCH = "2.11"


def floors(*extras: str) -> dict[str, str]:
    """Distribution: its oldest release, of the project's own requirements and of extras."""
    found: dict[str, str] = {}
    waiting = [*PROJECT["dependencies"], *(f"trt-afdet[{extra}]" for extra in extras)]
    while waiting:
        wanted = Requirement(waiting.pop())
        if wanted.name == "trt-afdet":
            waiting += [line for extra in wanted.extras for line in EXTRAS[extra]]
            continue
        versions = [s.version for s in wanted.specifier if s.operator == ">="]
        if versions:
            found[wanted.name] = max([*versions, found.get(wanted.name, "0")], key=_parts)
    return found


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev"}))
def test_every_requirement_says_its_floor(extra: str) -> None:
    for line in EXTRAS[extra]:
        wanted = Requirement(line)
        if wanted.name != "trt-afdet":
            assert any(s.operator == ">=" for s in wanted.specifier), line


def test_torch_is_that_of_the_gpu_machine() -> None:
    assert floors("train")["torch"] == TORCH


def install(folder: Path, pins: list[str]) -> Path:
    """A virtual environment with exactly these releases and what they need; its Python.

    Skips where the releases cannot be had at all.
    """
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        offline = (
            "Temporary failure",
            "NewConnectionError",
            "ProxyError",
            "Network is unreachable",
        )
        if any(word in result.stderr for word in offline):
            pytest.skip("pip reaches no package index: a run with one")
        pytest.fail(result.stderr[-2000:])
    return python


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="needs Python 3.11: a run with it, as in CI"
)
def test_the_runtime_works_on_its_floors(tmp_path: Path) -> None:
    """Not imports alone: the shipped model on the shipped clip, pictures in and out, AP."""
    pins = [f"{name}=={version}" for name, version in floors("runtime").items()]
    python = install(tmp_path / "venv", pins)
    package = Path(trt_afdet.__file__).parent
    # The package without its metadata: the source as it stands, on other packages.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "trt_afdet").symlink_to(package)
    clip = package / "assets" / "clip.mp4"
    program = f"""
from itertools import islice
from pathlib import Path
from trt_afdet import Detector
from trt_afdet.media import open_inputs, write_picture
from trt_afdet.cli import main
from trt_afdet.assets import SHIPPED_MODEL
with Detector.load(SHIPPED_MODEL, conf=0.3) as detector, open_inputs({str(clip)!r}) as source:
    frames = [frame.image for frame in islice(source, 4)]
    found = detector(frames)
    assert sum(map(len, found)) > 0
    found[0].draw(frames[0])
for name in ("a.png", "b.jpg"):
    write_picture(Path({str(tmp_path)!r}, name), frames[0])
with Detector.load(SHIPPED_MODEL, conf=0.3) as detector:
    assert len(detector({str(tmp_path / "a.png")!r}))
assert main(["detect", {str(tmp_path / "a.png")!r}, "--out", {str(tmp_path / "out.png")!r},
             "--jsonl", {str(tmp_path / "out.jsonl")!r}]) == 0
assert main(["demo", "--out", {str(tmp_path / "demo")!r}]) == 0
assert main(["doctor", "--for", "detect"]) == 0
"""
    result = subprocess.run(
        [str(python), "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="needs Python 3.11: a run with it, as in CI"
)
def test_small_extras_work_on_their_floors(tmp_path: Path) -> None:
    """Each package is imported and used once, as the project does."""
    extras = ("web", "mqtt", "redis")
    pins = {**floors(*extras), **{k: floors("cameras")[k] for k in ("pyyaml", "pydantic")}}
    python = install(tmp_path / "venv", [f"{name}=={version}" for name, version in pins.items()])
    package = Path(trt_afdet.__file__).parent
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "trt_afdet").symlink_to(package)
    (tmp_path / "cameras.yaml").write_text(
        "sources: ['test://?fps=5']\nweb: 127.0.0.1:0\n"
        "sinks: ['mqtt://127.0.0.1:9/x', 'redis://127.0.0.1:9/x']\n"
    )
    program = f"""
from pathlib import Path
from trt_afdet.stream.config.schema import load_config
loaded = load_config(Path({str(tmp_path / "cameras.yaml")!r}))
assert len(loaded.config.sinks) == 2
import paho.mqtt.client as mqtt, redis, prometheus_client, uvicorn, websockets
mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
redis.Redis()
from trt_afdet.web.server import WebServer
"""
    result = subprocess.run(
        [str(python), "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]
