"""A frame on its way through the pipeline, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections


@dataclass(frozen=True)
class StreamFrame:
    """A captured frame.

    Attributes:
        source: Name of the camera or file.
        sequence: Number of the frame within its source, from 0 at the start of the pipeline;
            reconnects do not reset it.
        image: BGR uint8 [H, W, 3].
        captured: Time of capture, seconds of ``time.monotonic``. Latencies use it, so setting the
            clock does not disturb them.
        wall_time: The same moment as seconds since 1970.
        position: Seconds into the file, or None for live sources.
    """

    source: str
    sequence: int
    image: npt.NDArray[np.uint8]
    captured: float
    wall_time: float
    position: float | None = None


@dataclass(frozen=True)
class StreamResult:
    """A frame with its detections.

    Attributes:
        frame: As captured.
        detections: In pixels of the frame.
        detected: False if the tracker predicted the boxes and the detector did not run.
        finished: Time at which the detections were ready, seconds of ``time.monotonic``.
        events: Events of zones and lines (see ``zones.py``).
    """

    frame: StreamFrame
    detections: Detections
    detected: bool
    finished: float
    events: tuple[object, ...] = ()

    @property
    def source(self) -> str:
        """Name of the camera or file."""
        return self.frame.source

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """BGR uint8 [H, W, 3]."""
        return self.frame.image

    @property
    def time(self) -> float:
        """Time of capture, seconds since 1970."""
        return self.frame.wall_time

    @cached_property
    def annotated(self) -> npt.NDArray[np.uint8]:
        """The image with the detections, drawn once and shared by all sinks; do not modify."""
        return self.detections.draw(self.frame.image)
