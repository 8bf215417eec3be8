"""The GPU check itself, on any machine: no GPU, failing steps, missing parts, the report."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import check
from tests.gpu.check import Step
from tests.skips import skip_test

FAIL = (sys.executable, "-c", "print('about to fail'); raise SystemExit(3)")
PASS = (sys.executable, "-c", "print('one'); print('all | well')")


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    if check.machine() is not None:
        skip_test("this machine has a GPU", "a run without one")
    result = subprocess.run(
        [sys.executable, check.__file__, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout.count("\n") == 1
    assert "no usable NVIDIA GPU" in result.stdout
    assert not (tmp_path / "out").exists()


def test_a_failure_stops_nothing_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [
        Step("first", PASS),
        Step("second one", FAIL),
        Step("third", missing="a thing"),
        Step("fourth", ("/nowhere/tool",)),
        Step("fifth", PASS),
    ]
    monkeypatch.setattr(check, "machine", lambda: ["NVIDIA GPU: pretended"])
    monkeypatch.setattr(check, "steps", lambda python, out: iter(chosen))
    assert check.main(["--out", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert "* NVIDIA GPU: pretended" in text
    assert "| first | ok |" in text
    assert "| second one | failed |" in text
    assert "exit status 3: about to fail" in text
    assert "| third | skipped | 0.0 | missing: a thing |" in text
    assert "| fourth | failed |" in text
    assert "all \\| well" in text
    assert text.strip().endswith("2 ok, 2 failed, 1 skipped")
    assert "about to fail" in (tmp_path / "02-second-one.log").read_text()


def test_skipped_steps_fail_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "machine", lambda: ["a GPU"])
    steps = [Step("a", PASS), Step("b", missing="x")]
    monkeypatch.setattr(check, "steps", lambda python, out: iter(steps))
    assert check.main(["--out", str(tmp_path)]) == 0


def test_a_step_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TIMEOUT", 0.5)
    hang = Step("hang", (sys.executable, "-c", "import time; time.sleep(60)"))
    outcome = check.run_step(hang, tmp_path / "log", dict(os.environ))
    assert outcome.status == "failed"
    assert "timed out" in outcome.detail
    assert outcome.seconds < 30


def test_every_step_names_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    found = {step.name: step for step in check.steps(sys.executable, tmp_path)}
    assert "nvcc" in found["build for this GPU"].missing
    assert "compute-sanitizer" in found["racecheck over the tests"].missing
    assert found["tests on the GPU"].missing == ""
    for name in check.ENGINES:
        assert "TensorRT" in found[f"build {name}"].missing
        assert "TensorRT" in found[f"compare {name} with ONNX Runtime"].missing
    assert any(name.startswith("benchmark") for name in found)


def test_every_command_exists(tmp_path: Path) -> None:
    """Scripts are there, and trt-afdet takes the options it is given."""
    from trt_afdet.cli import build_parser

    for step in check.engine_steps(sys.executable, tmp_path):
        words = step.command
        if "trt_afdet" in words:
            arguments = list(words[words.index("trt_afdet") + 1 :])
            build_parser(arguments[0]).parse_args(arguments)
    for step in check.steps(sys.executable, tmp_path):
        scripts = [word for word in step.command if word.endswith(".py")]
        assert all(Path(script).is_file() for script in scripts)
    assert importlib.import_module("tests.gpu.compare_engine").MOST_LOST.keys() >= {
        "fp32",
        "fp16",
        "int8",
    }
