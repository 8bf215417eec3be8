"""A frame on its way through the pipeline, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections


@dataclass(frozen=True)
class StreamFrame:
    """A captured frame.

    Attributes:
        source: Name of the camera or file.
        sequence: Frames captured before it by the same source since the pipeline started,
            reconnects included.
        image: BGR uint8 [H, W, 3].
        captured: When it was captured, seconds of ``time.monotonic``: latencies are differences of
            it, so a clock that is set does not disturb them.
        wall_time: The same moment as seconds since 1970, for people and files.
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
        detected: False if the tracker carried the boxes on and the detector did not run.
        finished: When the detections were there, seconds of ``time.monotonic``.
        events: What zones and lines had to say (see ``zones.py``).
    """

    frame: StreamFrame
    detections: Detections
    detected: bool
    finished: float
    events: tuple[object, ...] = field(default=())

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
        """When the frame was captured, seconds since 1970."""
        return self.frame.wall_time

    @cached_property
    def annotated(self) -> npt.NDArray[np.uint8]:
        """The image with the detections on it, drawn once for all sinks: do not change it."""
        return self.detections.draw(self.frame.image)
