"""The protocol of a source, and its errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import RunError


class SourceError(RunError):
    """A source cannot be opened or read. For live sources that is a reason to try again."""


class SourceRefusedError(SourceError):
    """The peer refuses: no such stream, an option it lacks. Starting cameras do so, too."""


class LoginRefusedError(SourceRefusedError):
    """User or password is refused. Tried again seldom: cameras lock users out."""


class UnusableSourceError(SourceError):
    """Trying again cannot help: this installation lacks what it needs."""


@dataclass(frozen=True)
class SourceInfo:
    """The properties of an open source."""

    width: int  # Pixels; both are 0 if they will only be known with the first frame.
    height: int
    fps: float | None  # None if it does not say.
    codec: str  # Name of the codec or pixel format, for people.


@dataclass(frozen=True)
class Picture:
    """One frame as a source gives it.

    Attributes:
        image: BGR uint8 [H, W, 3]; the receiver may keep it.
        position: Seconds into the file; None for live sources.
        captured: ``time.monotonic`` of its capture if the source knows better than "now".
    """

    image: npt.NDArray[np.uint8]
    position: float | None = None
    captured: float | None = None


#: Seconds by which a driver's own timeout comes after the deadline of its source: it ends a driver
#: that cannot be interrupted, and says nothing else.
GRACE = 1.0

#: Makes a picture of what a driver has read, in the thread that takes it; None if it is damaged.
#: For live sources that must be read on while nobody takes their frames, which then cost nothing.
Pending = Callable[[], Picture | None]


def unpadded(
    data: Any, width: int, height: int, channels: int, stride: int
) -> npt.NDArray[np.uint8] | None:
    """Pixels [H, W, C] whose rows begin every ``stride`` bytes, as a view of the data.

    None if some are missing.
    """
    flat = np.frombuffer(data, np.uint8)
    if flat.size < stride * (height - 1) + width * channels:
        return None
    shape, strides = (height, width, channels), (stride, channels, 1)
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def incomplete(source: object) -> str:
    """What of a file that came to its end could not be read, for people; empty if all could."""
    return str(getattr(source, "incomplete", ""))


def own_limit(source: object, name: str) -> float:
    """The ``connect_timeout`` or ``timeout`` of a source, in seconds; infinite if it has none."""
    limit = getattr(source, name, None)
    return math.inf if limit is None else float(limit)


class Source(Protocol):
    """The driver of a camera, a stream, a file: one connection, used by one thread.

    It may block: :class:`~trt_afdet.stream.capture.Connection` runs it in a separate thread and
    gives it up after the deadlines, of which a source may have its own (:func:`own_limit`).

    Attributes:
        name: For people and logs; without credentials.
        live: Whether it goes on without being read. Live sources are reconnected and may lose
            frames; the others are read to their end, every frame.
    """

    name: str
    live: bool

    def open(self) -> SourceInfo:
        """Connects; blocks for as long as it takes.

        SourceError if it cannot be opened now; SourceRefusedError if the peer refuses;
        UnusableSourceError if it never can.
        """

    def read(self) -> Picture | Pending | None:
        """The next frame, or None at the end of a file; blocks for as long as it takes.

        SourceError if the source is lost or sends garbage.
        """

    def interrupt(self) -> None:
        """Makes a blocked :meth:`read` or :meth:`open` return soon. From any thread.

        What waits inside PyAV is interrupted by its thread
        (:class:`~trt_afdet.support.threads.Worker`).
        """

    def close(self) -> None:
        """Disconnects, also after a failed :meth:`open`; closing twice is fine."""
