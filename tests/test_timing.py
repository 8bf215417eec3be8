"""Tests must not depend on the load of the machine. This test finds lines that do.

It refuses fixed pauses, limits so short that a busy machine exceeds them, and assertions about
speed. Wait with :func:`waiting.wait_until`, or give the code a fake clock. To allow a line, add
the reason: ``# timing: the reason``.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ALLOWED = re.compile(r"# timing: \w.{5,}")

#: Shorter limits, in seconds, may fail a correct test on a busy machine.
SHORTEST_TIMEOUT = 10.0
SHORTEST_BOUND = 30.0

#: Functions whose ``timeout`` (and, for methods, first argument) ends a wait of the test.
WAITS = {
    *("run", "call", "check_call", "check_output", "communicate", "urlopen", "create_connection"),
    *("HTTPConnection", "get", "put", "post", "delete", "head", "request", "acquire", "result"),
    *("join", "wait", "recv", "wait_for", "wait_until"),
}
#: For these methods, the first argument is also the limit.
BY_POSITION = {"join", "wait", "recv"}
CLOCKS = {"monotonic", "perf_counter", "time", "process_time"}


def number(node: ast.AST | None) -> float | None:
    """A constant, or a sum or product of constants."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)
    if isinstance(node, ast.BinOp):
        left, right = number(node.left), number(node.right)
        if left is not None and right is not None:
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Mult):
                return left * right
    return None


def reads_clock(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Attribute)
        and part.func.attr in CLOCKS
        and isinstance(part.func.value, ast.Name)
        and part.func.value.id == "time"
        for part in ast.walk(node)
    )


class Finder(ast.NodeVisitor):
    """Collects the lines that depend on time, with the reason."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._elapsed: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._elapsed = self._elapsed, set(self._elapsed)
        self.generic_visit(node)
        self._elapsed = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        has_difference = any(
            isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and reads_clock(part)
            for part in ast.walk(node.value)
        )
        if has_difference:
            self._elapsed |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "sleep" and number(next(iter(node.args), None)) is not None:
            self.found.append((node.lineno, "sleeps for a fixed time"))
        if name in WAITS:
            limits = [k.value for k in node.keywords if k.arg in ("timeout", "seconds")]
            if name in BY_POSITION and isinstance(node.func, ast.Attribute):
                limits += node.args[:1]
            for limit in limits:
                seconds = number(limit)
                if seconds is not None and seconds < SHORTEST_TIMEOUT:
                    self.found.append((node.lineno, f"a limit of {seconds:g} s"))
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if reads_clock(node.test):
            self.found.append((node.lineno, "waits by the clock: use waiting.wait_until"))
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        for part in ast.walk(node.test):
            if isinstance(part, ast.Compare):
                self._compare(part)
        self.generic_visit(node)

    def _compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(operator, ast.Gt | ast.GtE):
                left, right = right, left
            elif not isinstance(operator, ast.Lt | ast.LtE):
                continue
            bound = number(right)
            if self._is_elapsed(left) and bound is not None and bound < SHORTEST_BOUND:
                self.found.append((node.lineno, f"must be done within {bound:g} s"))

    def _is_elapsed(self, node: ast.AST) -> bool:
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        return reads_clock(node) or bool(names & self._elapsed)


def faults(text: str) -> list[tuple[int, str]]:
    """Lines of a module that depend on time, except those with a reason."""
    finder = Finder()
    finder.visit(ast.parse(text))
    lines = text.splitlines()

    def is_allowed(line: int) -> bool:
        before = lines[line - 2].strip() if line > 1 else ""
        own = ALLOWED.search(lines[line - 1])
        return bool(own or (before.startswith("#") and ALLOWED.search(before)))

    return [(line, what) for line, what in finder.found if not is_allowed(line)]


def test_no_test_depends_on_how_busy_the_machine_is() -> None:
    found = [
        f"{path.relative_to(TESTS.parent)}:{line}: {what}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, what in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(["see tests/test_timing.py", *found])


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(0.5)",
        "sleep(2 * 3)",
        "thread.join(5)",
        "process.wait(timeout=3)",
        "subprocess.run(command, timeout=2.5)",
        "wait_until(ready, seconds=5)",
        "while time.monotonic() < end: pass",
        "assert time.monotonic() - began < 3",
        "assert 0.4 < time.monotonic() - began < 3",
        "assert 3 > time.perf_counter() - began",
        "took = time.monotonic() - began\nassert took < 1.0 + 2.0",
        "took = time.monotonic() - began\nassert took < 1 and other",
    ],
)
def test_what_is_refused(line: str) -> None:
    assert len(faults(line)) == 1
    *before, last = line.split("\n")
    assert faults("\n".join([*before, f"{last}  # timing: only ends a hang"])) == []
    assert faults("\n".join([*before, f"# timing: only ends a hang\n{last}"])) == []


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(1 / fps)",
        "wait_until(ready)",
        "thread.join(LIMIT)",
        "', '.join(words)",
        "socket.recv(4096)",
        "assert time.monotonic() - began > 0.4",
        "assert time.monotonic() - began < 60",
        "source(address, timeout=0.5)",
        "assert took < 3",
    ],
)
def test_what_is_not(line: str) -> None:
    assert faults(line) == []
