"""Interleaved medians and the table that every benchmark prints."""

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

    The tasks take turns, so that load on the machine affects all of them.

    Args:
        tasks: Functions to time, by name.
        seconds: Time for all tasks together; each runs at least five times.
        warm_up: Runs of each task before timing.
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
    """One row per task, with the time relative to the first task: above 1 is slower."""
    first = next(iter(medians.values()))
    return [[case, name, f"{ms:.3f}", f"{ms / first:.2f}"] for name, ms in medians.items()]


def show(title: str, lines: list[list[str]]) -> None:
    """Prints the table, with the machine and the versions."""
    ui.table(
        f"{title} ({platform.machine()}, Python {platform.python_version()})",
        ["case", "implementation", "median ms", "ratio"],
        lines,
    )


def installed(package: str, hint: str) -> bool:
    """Whether a peer is installed; prints a line if it is not."""
    if importlib.util.find_spec(package) is not None:
        return True
    print(f"skipped: {package} is not installed: {hint}")
    return False
