"""What commands print: tables, warnings, progress. rich if it is there, plain text if not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two progress lines without a terminal.
LINE_EVERY = 10.0


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def note(text: str) -> None:
    """One line on stderr that is not a warning."""
    print(text, file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; all columns but the first are right-aligned."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        _plain_table(title, columns, rows)
        return
    drawn = Table(title=escape(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    Console().print(drawn)


def _plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(r[i]) for r in (columns, *rows)) for i in range(len(columns))]
    print(title)
    for row in (columns, ["-" * w for w in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))


def progress(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Passes items on and shows how far it is.

    A bar with rate and remaining time on a terminal, a line every few seconds elsewhere, nothing
    at all for work of under two seconds in a log.
    """
    if sys.stderr.isatty():
        try:
            from rich import progress as rich
            from rich.console import Console
        except ImportError:
            pass
        else:
            what, speed = "{task.description}", "{task.fields[rate]}"
            columns = (what, rich.BarColumn(), rich.MofNCompleteColumn(), speed)
            console = Console(file=sys.stderr)
            with rich.Progress(
                *columns, rich.TimeRemainingColumn(), console=console, transient=True
            ) as bar:
                task = bar.add_task(description, total=total, rate="")
                start = time.monotonic()
                for done, item in enumerate(items, 1):
                    yield item
                    rate = done / max(1e-9, time.monotonic() - start)
                    bar.update(task, advance=1, rate=f"{rate:.1f}/s")
            return
    yield from _lines(items, total, description)


def _lines(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    start = time.monotonic()
    next_line = start + LINE_EVERY
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now >= next_line:
            next_line = now + LINE_EVERY
            of = f"/{total}" if total else ""
            print(f"{description}: {done}{of}, {done / (now - start):.1f}/s", file=sys.stderr)
