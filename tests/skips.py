"""The form of a skip's reason: ``what is missing: what brings it``. Other skips fail.

The summary of a run groups skips by what brings the missing part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from typing import Any, NoReturn

import pytest

#: Both parts in one line; "missing" alone names nothing.
FORM = re.compile(
    r"(?!(?:missing|skipped|needed): )(?P<missing>\S.{3,}?): (?P<brings>\S.{3,})", re.IGNORECASE
)


def skip_test(what: object, brings: str) -> NoReturn:
    """Skips the test.

    Args:
        what: The missing part, or an error that names it.
        brings: The command, package or machine that makes the test run.
    """
    pytest.skip(f"{' '.join(str(what).split()).replace(': ', ' - ')}: {brings}")


def _check(report: Any) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = _reason(report)
    if FORM.fullmatch(reason) is None:
        report.outcome = "failed"
        report.longrepr = (
            f"the reason of this skip must say what is missing and what brings it, as in "
            f"'nginx is not installed: make peers' (got {reason!r})"
        )


def _reason(report: Any) -> str:
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return str(text).removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _check(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    _check(report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if not counts:
        return
    groups: dict[str, list[tuple[str, int]]] = {}
    for reason, count in sorted(counts.items()):
        if found := FORM.fullmatch(reason):
            groups.setdefault(found["brings"], []).append((found["missing"], count))
    terminalreporter.section(f"{counts.total()} skipped: what brings them")
    for brings, parts in sorted(groups.items()):
        terminalreporter.write_line(brings)
        for missing, count in parts:
            terminalreporter.write_line(f"  {count:4}  {missing}")
