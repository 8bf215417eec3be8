"""Completion scripts, run by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.skips import skip_test
from trt_afdet.cli import main

#: A command line, the words that complete its last one, and words that must not.
CASES = (
    ("trt-afdet de", {"detect", "demo"}, {"run"}),
    ("trt-afdet data ", {"check", "convert", "doom"}, {"detect", "--split"}),
    ("trt-afdet data convert --t", {"--to"}, {"--split"}),
    ("trt-afdet data convert a b --to ", {"coco", "voc", "yolo"}, {"--link"}),
    ("trt-afdet detect --co", {"--conf"}, {"--iou"}),
    ("trt-afdet build-engine --precision f", {"fp32", "fp16"}, {"int8"}),
    ("trt-afdet completion ", {"bash", "zsh", "fish"}, {"--debug"}),
    ("trt-afdet detect street.mp4 --out an", {"annotated/"}, {"--conf"}),
    ("trt-afdet detect str", {"street.mp4"}, {"annotated/"}),
)

BASH = """
source ./script
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_trt_afdet
printf "%%s\\n" "${COMPREPLY[@]}"
# What `complete -o default` does where the function finds nothing:
(( ${#COMPREPLY[@]} )) || compgen -f -- "${COMP_WORDS[COMP_CWORD]}" | sed 's,^annotated$,&/,'
"""

#: Calls the function as zsh's bashcompinit does; zsh itself filters, and adds file names.
ZSH = """
autoload -U compinit
compinit -D -u
source ./script
(( $+_comps[trt-afdet] )) || exit 1
emulate sh
setopt kshglob noshglob braceexpand
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_trt_afdet
printf "%%s\\n" "${COMPREPLY[@]}"
"""


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        skip_test(f"{shell} is not installed", "make peers")
    assert main(["completion", shell]) == 0
    (folder / "script").write_text(capsys.readouterr().out)
    (folder / "annotated").mkdir()
    (folder / "street.mp4").touch()


def ask(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("line", "some", "none"), CASES)
def test_bash(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    some: set[str],
    none: set[str],
) -> None:
    script("bash", tmp_path, capsys)
    words = " ".join(repr(word) for word in line.split(" "))
    found = set(ask(tmp_path, "bash", "--norc", "-c", BASH % words).split())
    assert some <= found
    assert not none & found


@pytest.mark.parametrize(("line", "some", "none"), CASES)
def test_fish(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    some: set[str],
    none: set[str],
) -> None:
    script("fish", tmp_path, capsys)
    printed = ask(tmp_path, "fish", "-c", f"source ./script; complete -C {line!r}")
    found = {shown.split("\t")[0] for shown in printed.splitlines()}
    assert some <= found
    assert not none & found


@pytest.mark.parametrize(("line", "some", "none"), CASES[:-2])
def test_zsh(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    some: set[str],
    none: set[str],
) -> None:
    script("zsh", tmp_path, capsys)
    words = " ".join(repr(word) for word in line.split(" "))
    given = ask(tmp_path, "zsh", "-f", "-c", ZSH % words).split()
    found = {word for word in given if word.startswith(line.split(" ")[-1])}
    assert some <= found
    assert not none & found


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "did you mean 'bash'?" in capsys.readouterr().err
