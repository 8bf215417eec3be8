"""Compares a stream's clock with this machine's: how late a frame is, or when it is due."""

from __future__ import annotations

#: Clocks of cameras are off by less than this share.
_DRIFT = 5e-4
#: Seconds; a larger step of a stream's clock, or one so far back, starts it anew.
_JUMP = 10.0
_BACK = 0.5


class Lag:
    """How much later frames arrive than the promptest one did.

    A stream that is read too slowly piles up in buffers: its frames then arrive later and later
    against their own timestamps.
    """

    def __init__(self) -> None:
        self._prompt: float | None = None
        self._last = 0.0
        self._timestamp = 0.0

    def behind(self, now: float, timestamp: float) -> float:
        """Seconds by which a frame is late that arrives now, captured at a time of the stream."""
        offset = now - timestamp
        back = self._timestamp - timestamp > _BACK
        if self._prompt is None or back or abs(offset - self._prompt) > _JUMP:
            self._prompt = offset
        else:
            # Grows as the camera's clock may: otherwise a slow clock looks like lag in a week.
            self._prompt = min(offset, self._prompt + (now - self._last) * _DRIFT)
        self._last, self._timestamp = now, timestamp
        return offset - self._prompt


class Clockwork:
    """When frames are due that arrive before their time."""

    #: Seconds; one that is later than this starts the clock anew, it will not catch up.
    MOST_LATE = 1.0
    #: Seconds; one that is earlier comes after a gap in the timestamps.
    MOST_EARLY = 4.0

    def __init__(self) -> None:
        self._start: float | None = None

    def wait(self, now: float, timestamp: float) -> float:
        """Seconds until a frame is due, at least 0, captured at a time of the stream."""
        if self._start is not None:
            early = self._start + timestamp - now
            if -self.MOST_LATE < early < self.MOST_EARLY:
                return max(0.0, early)
        self._start = now - timestamp
        return 0.0
