"""The command line itself: help, exit statuses, what it imports, how it complains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trt_afdet.cli import main


def run(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trt_afdet", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text.rstrip("\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_reads_like_a_manual_page(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for command in ("detect", "demo", "eval", "data", "train", "export"):
        assert f"trt-afdet {command}" in text, f"no example of {command}"
    assert "exit status" in text


@pytest.mark.parametrize("command", ["detect", "demo", "eval"])
def test_help_of_every_command_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert "example" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from trt_afdet import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trt-afdet {__version__}\n"


def test_no_command_is_a_mistake_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detec", "x"], "unknown command 'detec' - did you mean 'detect'?"),
        (["detect", "x", "--cnf", "1"], "unknown option --cnf - did you mean '--conf'?"),
        (["detect", "x", "--cnf=1"], "unknown option --cnf=1 - did you mean '--conf'?"),
        (["version"], "unknown command 'version' - did you mean '--version'?"),
        (["help"], "unknown command 'help' - did you mean '--help'?"),
        (["predict", "x"], "unknown command 'predict' (see trt-afdet --help)"),
        (["detect", "x", "--colour"], "unknown option --colour (see"),
        (["doctor", "--for", "tarin"], "did you mean 'train'?"),
        (["detect"], "required: SOURCE"),
        (["detect", "x", "--conf", "high"], "--conf: invalid float value: 'high'"),
    ],
)
def test_usage_mistakes_take_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith("trt-afdet: error: ")
    assert message in line


@pytest.mark.parametrize("arguments", [["--debug", "detect"], ["detect", "--debug"]])
def test_debug_raises_what_is_a_line_otherwise(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        main([*arguments, missing])
    assert main(["detect", missing]) == 2
    assert "none.png" in one_line(capsys.readouterr().err)


def test_ctrl_c_is_130_and_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import trt_afdet.cli.detect

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(trt_afdet.cli.detect, "run", interrupted)
    assert main(["detect", "x"]) == 130
    assert one_line(capsys.readouterr().err) == "trt-afdet: error: stopped"


@pytest.mark.parametrize("statement", ["import trt_afdet", "main(['--help'])", "main(['x'])"])
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    code = f"""
import sys
from trt_afdet.cli import main
{statement}
heavy = {{"numpy", "cv2", "rich", "onnxruntime", "onnx", "matplotlib", "torch", "afdet_train"}}
assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in ``trt-afdet --help | head -1``, with the pipe already closed."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = run("--help", stdout=writing)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here: a run on Linux")
def test_full_standard_output_takes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with Path("/dev/full").open("w") as full:
        result = run("--help", stdout=full.fileno())
    assert result.returncode == 2
    assert "No space left" in one_line(result.stderr)


def test_a_training_command_without_the_training_package() -> None:
    """Help stays whole, and the command says what to install."""
    code = """
import importlib.metadata, sys
sys.modules["afdet_train"] = None  # Importing it raises ImportError, as if it were absent.
from trt_afdet.cli import main
assert main(["--help"]) == 0
sys.exit(main(["train", "recipe.yaml"]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert 'pip install "trt-afdet[train]"' in one_line(result.stderr)
