"""Every option that names an output file, with every kind of target."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.trt_afdet.onnx_models import save_model
from trt_afdet.cli import main
from trt_afdet.media import VideoWriter, write_picture


@dataclass(frozen=True)
class Case:
    """A command, its option, the suffix of the file, and how its content begins."""

    words: list[str]
    suffix: str
    begins: bytes


CASES = {
    "detect --jsonl": Case(["detect", "a.png", "--model", "m.onnx", "--jsonl"], ".jsonl", b"{"),
    "detect --out": Case(["detect", "a.png", "--model", "m.onnx", "--out"], ".png", b"\x89PNG"),
    "detect video": Case(["detect", "v.mp4", "--model", "m.onnx", "--out"], ".mp4", b"\0\0\0"),
    "bench --json": Case(
        ["bench", "m.onnx", "--frames", "5", "--source", "a.png", "--json"], ".json", b"{"
    ),
    "bench --picture": Case(
        ["bench", "m.onnx", "--frames", "5", "--source", "a.png", "--picture"], ".png", b"\x89PNG"
    ),
    "inspect --picture": Case(["inspect", "m.onnx", "--picture"], ".png", b"\x89PNG"),
}
every_option = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", image)
    with VideoWriter(tmp_path / "v.mp4", 10) as writer:
        for _ in range(5):
            writer.write(image)
    save_model(tmp_path / "m.onnx")
    (tmp_path / "o").mkdir()
    return tmp_path


def run(case: Case, target: str | Path) -> int:
    return main([*case.words, str(target)])


@every_option
def test_files_links_and_new_folders(here: Path, case: Case) -> None:
    name = f"x{case.suffix}"
    private, real, link = here / "o" / f"private{case.suffix}", here / name, here / "o" / name
    private.write_text("old")
    private.chmod(0o600)
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(f"../{name}")
    dangling, far = here / "o" / f"dangling{case.suffix}", here / f"far{case.suffix}"
    dangling.symlink_to(far)
    new = here / "new" / "folder" / name
    for target in (private, link, dangling, new):
        assert run(case, target) == 0
        assert target.read_bytes().startswith(case.begins)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert real.read_bytes().startswith(case.begins)
    assert not [p for p in here.rglob(".*") if p.is_file()]


@every_option
def test_devices_and_pipes(here: Path, case: Case) -> None:
    null, pipe = here / "o" / f"null{case.suffix}", here / "o" / f"pipe{case.suffix}"
    null.symlink_to("/dev/null")
    assert run(case, null) == 0
    assert null.is_symlink()
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert run(case, pipe) == 0
    reader.join(60)
    assert got[0].startswith(case.begins)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert len(list((here / "o").iterdir())) == 2


@every_option
def test_standard_output_holds_the_data_alone(here: Path, case: Case) -> None:
    link = here / "o" / f"stdout{case.suffix}"
    link.symlink_to("/proc/self/fd/1")
    # Pictures and videos of detect are told apart by their suffix, which "-" has not.
    targets = [str(link)] if "--out" in case.words else ["-", str(link)]
    for target in targets:
        command = [sys.executable, "-m", "trt_afdet", *case.words, target]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(case.begins)
        if case.suffix == ".json":
            json.loads(done.stdout)
    assert not (here / "-").exists()


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        (option, kind)
        for option in CASES
        for kind in ("folder", "slash", "in a file", "full device", "loop", "closed")
        # --out of detect may be a folder.
        if not (CASES[option].words[-1] == "--out" and kind in ("folder", "slash"))
    ],
)
def test_what_cannot_be_written_is_one_line(
    here: Path, option: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[option]
    name = f"x{case.suffix}"
    (here / "o" / f"full{case.suffix}").symlink_to("/dev/full")
    (here / "o" / f"loop{case.suffix}").symlink_to(f"loop{case.suffix}")
    (here / "o" / f"closed{case.suffix}").symlink_to("/proc/self/fd/98765")
    (here / "o" / name).mkdir()
    target = {
        "folder": f"o/{name}",
        "slash": f"o/none{case.suffix}/",
        "in a file": f"a.png/{name}",
        "full device": f"o/full{case.suffix}",
        "loop": f"o/loop{case.suffix}",
        "closed": f"o/closed{case.suffix}",
    }[kind]
    before = sorted(here.rglob("*"))
    assert run(case, target) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("trt-afdet: error: ")
    assert sorted(here.rglob("*")) == before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
from trt_afdet.cli import main
sys.exit(main(sys.argv[1:]))
"""


@every_option
def test_a_full_disk_leaves_the_old_file(here: Path, case: Case) -> None:
    """A limit on the size of files stands for it: the system refuses the write."""
    target = here / "o" / f"x{case.suffix}"
    target.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *case.words, str(target)], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert target.read_text() == "old"
    assert [p.name for p in (here / "o").iterdir()] == [target.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: run as an ordinary user")
@every_option
def test_a_folder_that_is_not_ours(
    here: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "o").chmod(0o555)
    try:
        assert run(case, here / "o" / f"x{case.suffix}") == 2
    finally:
        (here / "o").chmod(0o755)
    assert "is the folder writable" in capsys.readouterr().err


def test_every_option_is_in_the_table() -> None:
    """Whoever adds an option that names an output adds it to the table, or to this list."""
    from trt_afdet.cli import BUILTIN, build_parser
    from trt_afdet.support.files import output_file

    found: set[str] = set()
    for name in BUILTIN:
        parser = build_parser(name)
        for action in parser._subparsers._group_actions[0].choices[name]._actions:  # type: ignore
            if action.type is output_file:
                found.add(f"{name} {action.option_strings[-1]}")
    # build-engine needs TensorRT; what it writes goes through support.files.
    elsewhere = {f for f in found if f.startswith("build-engine")}
    assert len(elsewhere) == 4
    assert found - elsewhere <= CASES.keys()
