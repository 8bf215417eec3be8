"""Pauses before a lost source, broker or server is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from trt_afdet.support.fields import Limit, NotNegative, Positive, Share, check_fields


@dataclass(frozen=True)
class Retry:
    """When a lost source is tried again.

    Attributes:
        first: Seconds before the first try.
        factor: Each further pause is so many times longer.
        longest: Seconds of the longest pause.
        jitter: Each pause varies by up to this share, so that cameras behind one broken switch do
            not all return at the same instant.
        stall: Restart an open source that delivers no frame for so many seconds.
        opening: Restart a source that does not open within so many seconds.
        settled: After so many live seconds a source starts again with the first pause.
        give_up: A source fails for good after so many tries in a row; 0 for never.
    """

    #: Pauses after a refused user or password, in multiples of ``first`` (10 s, 1 min, 5 min).
    #: Cameras lock a user out after a few wrong passwords within minutes.
    LOGIN: ClassVar[tuple[float, ...]] = (20, 120, 600)

    first: Positive = 0.5
    factor: Annotated[float, Limit(least=1)] = 2.0
    longest: Positive = 30.0
    jitter: Share = 0.2
    stall: Positive = 5.0
    opening: Positive = 20.0
    settled: NotNegative = 10.0
    give_up: Annotated[int, Limit(least=0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def pause(self, failures: int, random_share: float, *, login: bool = False) -> float:
        """Seconds to wait before the next try.

        Args:
            failures: Failures in a row, from 1.
            random_share: Random part of the jitter, 0 to 1.
            login: The camera refused the user or password.
        """
        if login:
            share = 1 + self.jitter * random_share
            return self.first * self.LOGIN[min(failures, len(self.LOGIN)) - 1] * share
        # The limit keeps the power from overflowing after months of failures.
        pause = min(self.longest, self.first * self.factor ** min(failures - 1, 64))
        return pause * (1 + self.jitter * (2 * random_share - 1))
