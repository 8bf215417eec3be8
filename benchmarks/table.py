"""Interleaved medians and the one table every benchmark prints."""

from __future__ import annotations

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Mapping

from trt_afdet.cli import ui


def interleaved_ms(
    tasks: Mapping[str, Callable[[], object]], seconds: float, warm_up: int = 3
) -> dict[str, float]:
    """Median milliseconds of each task.

    The tasks take turns, so that a busy moment of the machine hits all of them.

    Args:
        tasks: What to time, by name.
        seconds: For all of them together; each runs five times at least.
        warm_up: Runs before the clock starts.
    """
    for task in tasks.values():
        for _ in range(warm_up):
            task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 5 or time.perf_counter() < end:
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append((time.perf_counter() - start) * 1e3)
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def rows(case: str, medians: Mapping[str, float]) -> list[list[str]]:
    """One row per task; the ratio is to the first one: above 1 means slower than that."""
    first = next(iter(medians.values()))
    return [[case, name, f"{ms:.3f}", f"{ms / first:.2f}"] for name, ms in medians.items()]


def show(title: str, lines: list[list[str]]) -> None:
    """Prints the table, with what it was measured on."""
    ui.table(
        f"{title} ({platform.machine()}, Python {platform.python_version()})",
        ["case", "implementation", "median ms", "ratio"],
        lines,
    )


def installed(package: str, hint: str) -> bool:
    """Whether a peer is there; says so if not."""
    if importlib.util.find_spec(package) is not None:
        return True
    print(f"{package} is not installed, so it is not measured: {hint}")
    return False
