"""Signals end every command as Ctrl-C does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trt_afdet.cli import main
from trt_afdet.cli.stopping import Stopped, exit_status, stopping_cleanly

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])

#: A command that writes a file and says when it is in the middle of it.
WRITING = """
import sys, time
from pathlib import Path
import trt_afdet.cli.detect as detect
from trt_afdet.cli import main
from trt_afdet.support.files import atomic_path, open_output

def run(args):
    with open_output(Path("a.txt")) as file, atomic_path(Path("b.bin")) as temporary:
        file.write("half")
        temporary.write_bytes(b"half")
        print("ready", flush=True)
        while True:
            time.sleep(0.01)

detect.run = run
sys.exit(main(["detect", "x"]))
"""


def start(code: str, folder: Path, *options: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*options, sys.executable, "-c", code],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The tests themselves may run under nohup, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@SIGNALS
def test_a_signal_leaves_the_old_files_and_nothing_else(tmp_path: Path, number: int) -> None:
    (tmp_path / "a.txt").write_text("old")
    process = start(WRITING, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    named = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert err == f"trt-afdet: error: stopped{named}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_signals_in_a_row_leave_nothing(tmp_path: Path) -> None:
    process = start(WRITING, tmp_path)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM) * 5:
        process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_a_file_that_disturbs_nobody(tmp_path: Path) -> None:
    process = start(WRITING, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    left = list(tmp_path.iterdir())
    assert all(p.name.startswith(".") and ".tmp" in p.name for p in left)
    second = start(WRITING, tmp_path)
    second.terminate()
    second.communicate(timeout=60)
    assert sorted(tmp_path.iterdir()) == sorted(left)


def test_nohup_is_kept(tmp_path: Path) -> None:
    process = start(WRITING, tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    # It goes on: nothing is said until the signal that ends it.
    assert select.select([process.stderr], [], [], 0.5)[0] == []
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "SIGTERM" in err


def test_a_forked_worker_ends_as_any_process() -> None:
    reading, writing = os.pipe()
    with stopping_cleanly():
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writing, b"!")
                while True:
                    time.sleep(0.01)  # timing: until the signal comes
            finally:
                os._exit(7)
        # Python forgets a signal that comes while it forks.
        assert os.read(reading, 1) == b"!"
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    assert main(["detect", "none.png"]) == 2
    after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    assert after == before


def test_statuses() -> None:
    assert exit_status(KeyboardInterrupt()) == 130
    assert exit_status(Stopped(signal.SIGTERM)) == 143
    assert exit_status(Stopped(signal.SIGHUP)) == 129
