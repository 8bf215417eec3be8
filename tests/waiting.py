"""Waiting in tests: for a condition, never for a fixed time.

The limits here only end a test that hangs. Results must not depend on them, so they are generous:
a machine with several other jobs can be ten times slower than an idle one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which a waiting test fails.
LIMIT = 60.0


def wait_until(condition: Callable[[], T], what: str = "it to happen", seconds: float = LIMIT) -> T:
    """Waits until the condition is true.

    Args:
        condition: Function to call, about fifty times per second.
        what: The expected event, for the message of a failure.
        seconds: The limit.

    Returns:
        The first true result.

    Raises:
        AssertionError: If the limit passes first.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline  # Before the call: a slow true result counts.
        if answer := condition():
            return answer
        if late:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)  # timing: the pause between two calls
