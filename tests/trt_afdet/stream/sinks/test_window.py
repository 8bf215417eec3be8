"""The window, on a real X server without a screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.skips import skip_test
from trt_afdet.errors import MissingDependencyError, RunError
from trt_afdet.stream.sinks.window import WindowSink, grid

SHOW = """
import sys, time
from tests.trt_afdet.stream.sinks.sink_makers import result, status
from trt_afdet.stream.sinks.window import WindowSink
import cv2

closed = []
pressed = [] if sys.argv[1] == "stay" else [-1] * 10 + [int(sys.argv[1])]
shown = []
real, imshow = cv2.waitKey, cv2.imshow
def key(ms):
    real(ms)
    return pressed.pop(0) if pressed else -1
cv2.waitKey = key
def show(title, image):
    shown.append(image.shape)
    imshow(title, image)
cv2.imshow = show
sink = WindowSink(lambda: closed.append(1))
sink.open()
deadline = time.monotonic() + 60
sequence = 0
while time.monotonic() < deadline and not closed and len(shown) < 20:
    for source in ("a", "b"):
        sink.write(result(sequence, source))
    sequence += 1
    time.sleep(0.02)  # timing: the pace of a camera
sink.status(status("ended", "a"))
began = time.monotonic()
sink.close()
print(len(closed), shown[-1], time.monotonic() - began < 60)
"""


def run(argument: str, display: str | None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    env.pop("WAYLAND_DISPLAY", None)
    env.pop("DISPLAY", None)
    if display is not None:
        env["DISPLAY"] = display
    return subprocess.run(
        [sys.executable, "-c", SHOW, argument],
        cwd=Path(__file__).parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    if shutil.which("Xvfb") is None:
        skip_test("Xvfb is not installed", "make peers")
    read, write = os.pipe()
    process = subprocess.Popen(
        [
            "Xvfb",
            "-displayfd",
            str(write),
            "-screen",
            "0",
            "1280x800x24",
            "-nolisten",
            "tcp",
            "-noreset",
        ],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    process.terminate()
    process.wait(20)


def test_sources_are_shown_side_by_side(display: str) -> None:
    done = run("stay", display)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 (48, 128, 3) True\n"


@pytest.mark.parametrize("key", ["q", "\x1b"])
def test_q_and_escape_end_the_run(key: str, display: str) -> None:
    done = run(str(ord(key)), display)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 ")


@pytest.mark.parametrize("display", [None, ":987"])
def test_without_a_screen_it_says_so_and_lives(display: str | None) -> None:
    done = run("stay", display)
    assert done.returncode == 1
    if "built without windows" in done.stderr:  # Only the headless OpenCV can be imported here.
        assert "pip install opencv-python" in done.stderr
        return
    assert "no window can be opened" in done.stderr or "there is no screen" in done.stderr
    assert "mjpeg://" in done.stderr


def test_an_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                 NONE\n")
    with pytest.raises(MissingDependencyError, match="opencv-python-headless"):
        WindowSink().open()
    monkeypatch.undo()
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises((RunError, MissingDependencyError)):
        WindowSink().open()


def grey(width: int, height: int, value: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.full((height, width, 3), value, np.uint8)


def test_the_grid_holds_every_picture_whole_and_none_enlarged() -> None:
    assert grid([grey(30, 20, 9)]).shape == (20, 30, 3)
    four = grid([grey(100, 50, v) for v in (10, 20, 30, 40)], 400, 400)
    assert four.shape == (100, 200, 3)
    assert [four[25, 50, 0], four[25, 150, 0], four[75, 50, 0], four[75, 150, 0]] == [
        10, 20, 30, 40,
    ]  # fmt: skip
    mixed = grid([grey(1920, 1080, 100), grey(480, 640, 200)], 1280, 720)
    assert mixed.shape[0] <= 720
    assert mixed.shape[1] <= 1280
    area = {v: int((mixed[..., 0] == v).sum()) for v in (100, 200)}
    assert area[100] == pytest.approx(640 * 360, rel=0.02)
    assert area[200] == pytest.approx(720 * 540, rel=0.3)
    many = grid([grey(64, 48, 1 + i) for i in range(7)], 300, 300)
    assert set(np.unique(many)) == set(range(8))
