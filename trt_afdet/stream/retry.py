"""When a lost source, broker or server is tried again."""

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
        longest: Seconds; no pause is longer.
        jitter: Each pause is made longer or shorter by up to this share, so that cameras behind
            one broken switch do not all come back in the same instant.
        stall: A source that is open but gives no frame for so many seconds is restarted.
        opening: A source that does not open within so many seconds is restarted.
        settled: A source that was live for so many seconds starts again with the first pause.
        give_up: Tries in a row after which a source has failed for good; 0: never.
    """

    #: Pauses after a refused user or password, in multiples of ``first`` (10 s, 1 min, 5 min):
    #: cameras lock a user out after a few wrong passwords within minutes.
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
        """Seconds to wait.

        Args:
            failures: In a row, from 1.
            random_share: Of the jitter, 0 to 1.
            login: Whether user or password is refused.
        """
        if login:
            share = 1 + self.jitter * random_share
            return self.first * self.LOGIN[min(failures, len(self.LOGIN)) - 1] * share
        # The exponent is bounded so that months of failures do not overflow.
        pause = min(self.longest, self.first * self.factor ** min(failures - 1, 64))
        return pause * (1 + self.jitter * (2 * random_share - 1))
