"""The progress of ``trt-afdet run``: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot

COLUMNS = ("camera", "state", "frames/s", "p50 ms", "p99 ms", "dropped", "frames", "objects")

#: Seconds between two lines outside a terminal.
LINE_EVERY = 10.0
#: Seconds between two updates of the table.
DRAW_EVERY = 0.5
#: Classes named in the last column.
MOST_CLASSES = 3


def rows(snapshot: PipelineSnapshot) -> list[list[str]]:
    """A row of :data:`COLUMNS` for every source."""
    return [_row(snapshot, name) for name in snapshot.states]


def _row(snapshot: PipelineSnapshot, name: str) -> list[str]:
    state = snapshot.states[name]
    figures, queue = snapshot.sources.get(name), snapshot.queues.get(name)
    dropped = queue.dropped + queue.stale if queue else 0
    row = [name, state.state]
    if figures is None:
        return [*row, "-", "-", "-", str(dropped), "0", "-"]
    most = sorted(figures.objects.items(), key=lambda item: -item[1])
    named = ", ".join(f"{n} {kind}" for kind, n in most[:MOST_CLASSES])
    named += f", {len(most) - MOST_CLASSES} more" if len(most) > MOST_CLASSES else ""
    return [
        *row,
        f"{figures.fps:.1f}",
        _milliseconds(figures.latency_p50),
        _milliseconds(figures.latency_p99),
        str(dropped),
        str(figures.processed),
        named or "-",
    ]


def summary(snapshot: PipelineSnapshot) -> str:
    """All sources in one line."""
    live = sum(event.state == "live" for event in snapshot.states.values())
    fps = sum(figures.fps for figures in snapshot.sources.values())
    frames = sum(figures.processed for figures in snapshot.sources.values())
    dropped = sum(queue.dropped + queue.stale for queue in snapshot.queues.values())
    worst = max((f.latency_p99 for f in snapshot.sources.values()), default=math.nan)
    objects = sum(sum(f.objects.values()) for f in snapshot.sources.values())
    away = [f"{n} {e.state}" for n, e in snapshot.states.items() if e.state != "live"]
    text = (
        f"{live}/{len(snapshot.states)} live, {fps:.1f} frames/s, p99 {_milliseconds(worst)} ms, "
        f"{frames} frames, {dropped} dropped, {objects} objects"
    )
    return text + (f"; {', '.join(away[:5])}" if away else "")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}" if math.isfinite(seconds) else "-"


class View:
    """Shows snapshots from :meth:`open` to :meth:`close`; log messages appear above the table.

    Args:
        quiet: Show only warnings and errors.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._next = time.monotonic() + LINE_EVERY
        self._handler: logging.Handler | None = None

    def open(self) -> None:
        if sys.stderr.isatty() and not self._quiet:
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError:
                pass
            else:
                console = Console(file=sys.stderr)
                self._live = Live(console=console, auto_refresh=False, transient=True)
                self._live.start()
                self._next = 0.0
        # Made after the table, which sends what comes to stderr to the lines above it.
        self._handler = logging.StreamHandler()
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger = logging.getLogger("trt_afdet")
        logger.addHandler(self._handler)
        logger.setLevel(logging.WARNING if self._quiet else logging.INFO)

    @property
    def due(self) -> bool:
        """Whether :meth:`show` is due."""
        return not self._quiet and time.monotonic() >= self._next

    def show(self, snapshot: PipelineSnapshot) -> None:
        if self._live is None:
            self._next = time.monotonic() + LINE_EVERY
            print(f"{time.strftime('%H:%M:%S')} {summary(snapshot)}", file=sys.stderr, flush=True)
            return
        from rich.markup import escape
        from rich.table import Table

        self._next = time.monotonic() + DRAW_EVERY
        table = Table(header_style="bold")
        for index, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if 2 <= index <= 6 else "left")
        for row in rows(snapshot):
            table.add_row(*(escape(cell) for cell in row))
        self._live.update(table, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._handler is not None:
            logging.getLogger("trt_afdet").removeHandler(self._handler)
            self._handler = None
