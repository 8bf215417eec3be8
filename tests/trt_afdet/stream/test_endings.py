"""However a program ends while its cameras are silent, it ends by itself and not by a crash."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

ROUNDS = int(os.environ.get("AFDET_ENDINGS", "2"))
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "tcp")


@pytest.fixture(scope="module")
def silent() -> Iterator[list[str]]:
    """Addresses of peers that take the connection and say nothing, or half a word."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=200) for _ in range(2)]
    kept: list[socket.socket] = []

    def accept(listener: socket.socket, words: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                kept.append(near)
                with contextlib.suppress(OSError):
                    near.sendall(words)

    for listener, words in zip(listeners, (b"", b"RTSP/1.0 200 OK\r\nCSe"), strict=True):
        threading.Thread(target=accept, args=(listener, words), daemon=True).start()
    quiet, half = (listener.getsockname()[1] for listener in listeners)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = unused.getsockname()[1]
    yield [
        *(f"{scheme}://127.0.0.1:{quiet}/x" for scheme in SCHEMES),
        f"rtsp://127.0.0.1:{half}/x",
        f"udp://127.0.0.1:{nobody}",
    ]
    for end in (*listeners, *kept):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


PROGRAM = """
import os, signal, sys, threading, time
import numpy as np
from tests.trt_afdet.stream.detectors import FunctionDetector
from trt_afdet.detections import Detections
from trt_afdet.stream.capture import Connection
from trt_afdet.stream.pipeline import Pipeline, SourceSpec
from trt_afdet.stream.config.addresses import make_sink
from trt_afdet.stream.config.addresses import make_source, parse_source

@FunctionDetector
def detect(frames):
    return [
        Detections(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ("a",)
        )
        for _ in frames
    ]

wait, how, sink, *addresses = sys.argv[1:]
specs = [parse_source(a) for a in [*addresses, "test://?fps=50&width=64&height=64"]]
plans = [SourceSpec(str(i), lambda s=s: make_source(s), s.live) for i, s in enumerate(specs)]
pipeline = Pipeline(detect, plans, [make_sink(sink)])

def in_background(target):
    threading.Thread(target=target, daemon=True).start()
    time.sleep(float(wait))

if how == "stopped":
    threading.Timer(float(wait), pipeline.stop).start()
    pipeline.run()
elif how == "never started":
    del pipeline
elif how == "opened by hand":
    for spec in specs[:-1]:
        Connection("by hand", make_source(spec)).start()
    time.sleep(float(wait))
else:
    in_background(pipeline.run)
    if how == "sys.exit":
        sys.exit(3)
    if how == "exception":
        raise ZeroDivisionError("on purpose")
    if how == "interrupted":
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(9)
        except KeyboardInterrupt:
            sys.exit(130)
"""


def wait_for_all(running: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    ended = []
    for process in running:
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        ended.append((process.returncode, said))
    return ended


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("stopped", 0),
        ("falls off its end", 0),
        ("sys.exit", 3),
        ("exception", 1),
        ("interrupted", 130),
        ("never started", 0),
        ("opened by hand", 0),
    ],
)
def test_programs_end_with_their_own_status(how: str, status: int, silent: list[str]) -> None:
    # A sink that is inside FFmpeg, too.
    sink = next(a for a in silent if a.startswith("rtsp:")) + "/{source}"
    for number in range(ROUNDS):
        command = [sys.executable, "-X", "faulthandler", "-c", PROGRAM]
        command += [f"{0.3 + 0.13 * number:.2f}", how, sink, *silent]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        ((ended, said),) = wait_for_all([process])
        assert ended == status, said
        assert "Fatal Python error" not in said


def command_line(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", "trt_afdet", "run", *words, "--threads", "1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "status"),
    [("duration", 0), ("SIGTERM", 0), ("SIGINT", 130), ("fail fast", 1), ("given up", 1)],
)
def test_commands_end_with_the_documented_status(
    how: str, status: int, silent: list[str], tmp_path: Path
) -> None:
    cameras = [f"c{n}={address}" for n, address in enumerate(silent)]
    count: collections.Counter[int] = collections.Counter()
    said = ""
    for number in range(ROUNDS):
        out = tmp_path / f"{number}.jsonl"
        words = ["good=test://?fps=20", *cameras, "--sink", f"jsonl:{out}", "--quiet"]
        if how == "duration":
            words += ["--duration", f"{0.4 + 0.13 * number:.2f}"]
        elif how == "fail fast":
            words = [str(tmp_path / "missing.mp4"), *words, "--fail-fast"]
        elif how == "given up":
            quick = [f"{a}#connect_timeout=0.2" for a in silent if not a.startswith("udp")]
            words = [*quick, "--give-up", "1", "--quiet"]
        process = command_line(*words)
        if how.startswith("SIG"):
            for _ in range(1200):  # Until it runs: its first results are there.
                if out.exists() and out.stat().st_size:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)  # timing: only between two looks
            process.send_signal(getattr(signal, how))
        ((ended, said),) = wait_for_all([process])
        assert "Fatal Python error" not in said, said
        count[ended] += 1
    assert count == {status: ROUNDS}, said


def test_a_library_that_does_not_return_ends_with_the_status_all_the_same() -> None:
    program = """
import atexit, sys
atexit.register(print, "atexit has run", flush=True)
import ctypes
from trt_afdet.support import threads
from trt_afdet.cli import main
sleep = ctypes.CDLL(None).sleep
ARGS
"""
    stuck = 'threads.Worker(sleep, args=(60,), name="stuck").start(); '
    for how, status in (
        ("sys.argv = ['trt-afdet', 'nonsense']; sys.exit(main())", 2),
        ("sys.exit(7)", 7),
        ("raise SystemExit('text')", 1),
        ("threads.PROGRAM_WAITS = 0.1", 0),
    ):
        text = program.replace("ARGS", "threads.PROGRAM_WAITS = 0.3; " + stuck + how)
        ended = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == status, ended.stderr
        assert "atexit has run" in ended.stdout
