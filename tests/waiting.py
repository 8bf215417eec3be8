"""Waiting in tests: for what happens, never for a time that a busy machine may need twice.

The limits here only end a test that hangs. No outcome may depend on them, so they are generous:
a machine with several other jobs is ten times slower than an idle one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which a test that waits has failed.
LIMIT = 60.0


def wait_until(condition: Callable[[], T], what: str = "it to happen", seconds: float = LIMIT) -> T:
    """Asks until the answer is true.

    Args:
        condition: What is asked, about fifty times a second.
        what: What is waited for; the failure names it.
        seconds: The limit.

    Returns:
        The first answer that is true.

    Raises:
        AssertionError: If the limit passes before.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline  # Before the question: a slow answer still counts.
        if answer := condition():
            return answer
        if late:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)  # timing: the pause between two questions
