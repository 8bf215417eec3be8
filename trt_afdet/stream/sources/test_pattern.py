"""``test://``: a moving pattern with known boxes, for trying things out without a camera.

``test://?width=640&height=480&fps=30&objects=3&frames=0&seed=1``; ``frames=0`` goes on for ever,
``fps=0`` as fast as it is read. The boxes of every frame follow from its number: :func:`boxes_at`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.stream.options import read_options, split_options
from trt_afdet.stream.sources.base import Picture, SourceInfo
from trt_afdet.support.fields import Limit


@dataclass(frozen=True)
class Pattern:
    """The look of the pattern; see the module."""

    width: Annotated[int, Limit(least=64)] = 640
    height: Annotated[int, Limit(least=64)] = 480
    fps: Annotated[float, Limit(least=0)] = 30.0
    objects: Annotated[int, Limit(least=0)] = 3
    frames: Annotated[int, Limit(least=0)] = 0
    seed: Annotated[int, Limit(least=0)] = 1

    @classmethod
    def parse(cls, uri: str) -> Pattern:
        """Reads the options of a ``test://`` URI; raises as :func:`read_options`."""
        return read_options(cls, "test://", dict(split_options(uri.partition("?")[2])))


def boxes_at(pattern: Pattern, index: int) -> npt.NDArray[np.float32]:
    """The boxes of a frame: float32 [objects, 4], x1 y1 x2 y2 in pixels.

    They are squares that cross the picture, each at its own speed, and turn back at its sides.
    """
    rng = np.random.default_rng(pattern.seed)
    size = rng.uniform(0.08, 0.25, pattern.objects) * min(pattern.width, pattern.height)
    start = rng.uniform(0, 1, (pattern.objects, 2))
    speed = rng.uniform(0.002, 0.008, (pattern.objects, 2))
    # A triangle wave: there and back again.
    phase = (start + speed * index) % 2.0
    place = np.minimum(phase, 2.0 - phase)
    corner = place * (np.array([pattern.width, pattern.height]) - size[:, None])
    return np.concatenate([corner, corner + size[:, None]], axis=1).astype(np.float32)


class TestPatternSource:
    """The source behind ``test://``."""

    __test__ = False  # Not a test, whatever its name makes pytest think.

    def __init__(self, uri: str, name: str | None = None) -> None:
        self.pattern = Pattern.parse(uri)
        self.name = name or uri
        self.live = self.pattern.fps > 0 and self.pattern.frames == 0
        self._index = 0
        self._next = 0.0
        self._interrupted = threading.Event()
        row = np.linspace(40, 90, self.pattern.width, dtype=np.uint8)
        self._background = np.tile(row[None, :, None], (self.pattern.height, 1, 3))
        rng = np.random.default_rng(self.pattern.seed)
        self._colors = rng.integers(120, 256, (self.pattern.objects, 3))

    def open(self) -> SourceInfo:
        self._interrupted.clear()
        self._next = time.monotonic()
        pattern = self.pattern
        return SourceInfo(pattern.width, pattern.height, pattern.fps or None, "test pattern")

    def read(self) -> Picture | None:
        pattern = self.pattern
        if pattern.frames and self._index >= pattern.frames:
            return None
        if pattern.fps:
            self._next += 1 / pattern.fps
            if self._interrupted.wait(max(0.0, self._next - time.monotonic())):
                return None
        image = self._background.copy()
        corners = boxes_at(pattern, self._index).round().astype(int)
        for (x1, y1, x2, y2), color in zip(corners.tolist(), self._colors.tolist(), strict=True):
            cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), color, thickness=-1)
        position = None if self.live else self._index / (pattern.fps or 30.0)
        self._index += 1
        return Picture(image, position)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """Nothing is held open."""
