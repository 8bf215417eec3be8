"""A window with all sources side by side. q, Esc or closing it ends the run."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import MissingDependencyError, RunError
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import FINAL, StatusEvent

Image = npt.NDArray[np.uint8]

#: Size of the window in pixels, at most.
WIDTH, HEIGHT = 1280, 720
INTERVAL = 1 / 30  # Seconds between pictures.

# Without a screen OpenCV ends the process, so a child process tries first.
_PROBE = "import cv2; cv2.namedWindow('trt-afdet'); cv2.waitKey(1); cv2.destroyAllWindows()"


class WindowSink:
    """Shows the latest frame of every source; ``on_close``: the user has closed the window."""

    durable = False

    def __init__(self, on_close: Callable[[], None] | None = None) -> None:
        self.name = "window"
        self.on_close = on_close
        self._latest: dict[str, StreamResult] = {}
        self._closing = threading.Event()
        self._error: cv2.error | None = None
        self._thread = threading.Thread(target=self._show, name="window", daemon=True)

    def open(self) -> None:
        check_screen("use another output, such as mjpeg://127.0.0.1:8081")
        self._thread.start()

    def write(self, result: StreamResult) -> None:
        if self._error is not None:
            raise RunError("the window cannot be shown", got=self._error) from self._error
        self._latest[result.frame.source] = result

    def status(self, event: StatusEvent) -> None:
        if event.state in FINAL:
            self._latest.pop(event.source, None)

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def _show(self) -> None:
        # All of a window's calls must come from one thread.
        title = "trt-afdet"
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(title, WIDTH, HEIGHT)
            shown: list[StreamResult] = []
            while not self._closing.is_set():
                began = time.monotonic()
                results = [result for _, result in sorted(self._latest.items(), key=itemgetter(0))]
                if results and [id(r) for r in results] != [id(r) for r in shown]:
                    cv2.imshow(title, grid([result.annotated for result in results]))
                    shown = results
                left = INTERVAL - (time.monotonic() - began)
                key = cv2.waitKey(max(1, round(1000 * left))) & 0xFF
                if key in (ord("q"), 27) or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
                    if self.on_close is not None:
                        self.on_close()
                    break
            cv2.destroyAllWindows()
        except cv2.error as error:
            self._error = error


def grid(images: Sequence[Image], width: int = WIDTH, height: int = HEIGHT) -> Image:
    """Pictures side by side, each as large as fits, none enlarged; BGR uint8 [H, W, 3]."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    wide = min(width // columns, max(image.shape[1] for image in images))
    tall = min(height // rows, max(image.shape[0] for image in images))
    canvas = np.zeros((rows * tall, columns * wide, 3), np.uint8)
    for index, image in enumerate(images):
        scale = min(wide / image.shape[1], tall / image.shape[0], 1.0)
        size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
        x = (index % columns) * wide + (wide - size[0]) // 2
        y = (index // columns) * tall + (tall - size[1]) // 2
        canvas[y : y + size[1], x : x + size[0]] = small
    return canvas


def check_screen(hint: str) -> None:
    """Raises if no window can be shown, with a hint; does this process no harm."""
    if re.search(r"^\s*GUI:\s*NONE\s*$", cv2.getBuildInformation(), re.MULTILINE):
        remedy = "pip uninstall opencv-python-headless; pip install opencv-python"
        raise MissingDependencyError("this OpenCV is built without windows", hint=remedy)
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        raise RunError("there is no screen for a window", hint=hint)
    try:
        command = [sys.executable, "-c", _PROBE]
        probe = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunError("the screen does not answer", hint=hint) from error
    if probe.returncode:
        raise RunError("no window can be opened on this screen", hint=hint)
