"""Detectors of tests, for pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections

Frames = Sequence[npt.NDArray[np.uint8]]


class SyncDetector:
    """A detector that does its work in ``submit``, which calls it."""

    is_async = False
    max_batch: int | None = None

    def __call__(self, frames: Frames) -> list[Detections]:
        raise NotImplementedError

    def submit(self, frames: Frames) -> list[Detections]:
        return self(frames)

    def collect(self, ticket: list[Detections]) -> list[Detections]:
        return ticket


class FunctionDetector(SyncDetector):
    """One that is a function."""

    def __init__(self, detect: Callable[[Frames], list[Detections]]) -> None:
        self._detect = detect

    def __call__(self, frames: Frames) -> list[Detections]:
        return self._detect(frames)
