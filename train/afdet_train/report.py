"""Reports of a run: progress bar, metrics.jsonl, curves.png, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trt_afdet.support.figures import new_figure, save_figure

T = TypeVar("T")

#: Iterations between two lines of metrics.jsonl; shown values are averages over as many.
WINDOW = 20
#: Seconds between two lines of progress without a terminal.
LINE_EVERY = 30.0


class Report:
    """Progress and records of one run; only the first rank reports.

    Args:
        out: Folder of the run.
        enabled: Whether this process reports.
        tensorboard: Whether to write TensorBoard events.
    """

    def __init__(self, out: Path, *, enabled: bool, tensorboard: bool) -> None:
        self.out = out
        self.enabled = enabled
        self.console = Console(file=sys.stderr)
        self.values: dict[str, deque[float]] = {}
        self._use_tensorboard = tensorboard
        self._events: Any = None
        self._bar: Progress | None = None
        self._task: Any = None
        self._file: Any = None
        self._last_line = time.monotonic()
        self._started = (0, time.monotonic())
        self._total = 0

    def __enter__(self) -> Report:
        if not self.enabled:
            return self
        self.out.mkdir(parents=True, exist_ok=True)
        self._file = (self.out / "metrics.jsonl").open("a", buffering=1)
        if self._use_tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.out / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()

    def say(self, text: str) -> None:
        if self.enabled:
            self.console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        self.say(f"[yellow]warning:[/] {text}")

    def start(self, total: int, done: int) -> None:
        """Starts the bar of a run that has completed ``done`` of ``total`` iterations."""
        self._total = total
        self._started = (done, time.monotonic())
        if self.enabled and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]train"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("train", total=total, completed=done, text="")

    def mean(self, name: str) -> float:
        values = self.values.get(name)
        return sum(values) / len(values) if values else 0.0

    def step(self, iteration: int, values: dict[str, float]) -> None:
        """Records the values of one iteration."""
        for name, value in values.items():
            self.values.setdefault(name, deque(maxlen=WINDOW)).append(float(value))
        if not self.enabled:
            return
        text = (
            f"loss {self.mean('loss'):.3f} (cls {self.mean('cls'):.3f} box {self.mean('box'):.3f} "
            f"meta {self.mean('meta'):.3f}) {self.mean('images_per_s'):.1f} images/s"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, text=text)
        elif time.monotonic() - self._last_line > LINE_EVERY:
            self._last_line = time.monotonic()
            first, since = self._started
            rate = (iteration - first) / max(1e-9, time.monotonic() - since)
            minutes = (self._total - iteration) / max(1e-9, rate) / 60
            self.say(f"{iteration}/{self._total} {text} {minutes:.0f} min left")
        if iteration % WINDOW == 0 or iteration == self._total:
            self._record("train", iteration, {n: self.mean(n) for n in self.values})

    def evaluation(self, iteration: int, epoch: int, metrics: dict[str, float]) -> None:
        text = "  ".join(f"{n.upper()} {v:.4f}" for n, v in metrics.items())
        self.say(f"epoch {epoch}: {text}")
        if self.enabled:
            self._record("val", iteration, {**metrics, "epoch": float(epoch)})

    def iterate(self, items: Iterable[T], total: int, text: str) -> Iterator[T]:
        """Yields the items and shows a second bar meanwhile."""
        if self._bar is None:
            yield from items
            return
        task = self._bar.add_task(text, total=total, text=text)
        try:
            for item in items:
                yield item
                self._bar.advance(task)
        finally:
            self._bar.remove_task(task)

    def _record(self, kind: str, iteration: int, values: dict[str, float]) -> None:
        line = {"kind": kind, "iteration": iteration, "time": round(time.time(), 2), **values}
        self._file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, iteration)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, without an incomplete last line.

    An interrupted run may have written some iterations twice; the later line counts.
    """
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        while rows and rows[-1]["iteration"] >= row["iteration"] and row["kind"] == "train":
            rows.pop()
        rows.append(row)
    return rows


def plot_curves(rows: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Plots losses and learning rate (top) and validation AP (bottom) over iterations."""
    train = [r for r in rows if r["kind"] == "train"]
    val = [r for r in rows if r["kind"] == "val"]
    figure = new_figure(9, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [r["iteration"] for r in train]
    for name, label in (
        ("loss", "total"),
        ("cls", "class"),
        ("box", "box"),
        ("meta", "meta-selection"),
    ):
        above.plot(steps, [r[name] for r in train], label=label, lw=2.2 if name == "loss" else 1.2)
    above.set(ylabel="loss", ylim=(0, None), title=title)
    above.legend(loc="upper right", frameon=False)
    rate = above.twinx()
    rate.plot(steps, [r["lr"] for r in train], color="grey", lw=1, ls="--")
    rate.set(ylabel="learning rate (dashed)", ylim=(0, None))
    for name, label in (("ap50", "AP50"), ("ap", "AP")):
        points = [r["iteration"] for r in val], [r[name] for r in val]
        below.plot(*points, marker="o", label=label)
        for x, y in zip(*points, strict=True):
            below.annotate(
                f"{y:.3f}", (x, y), xytext=(0, 6), textcoords="offset points", ha="center"
            )
    below.set(xlabel="iteration", ylabel="validation AP", ylim=(0, 1.05))
    below.legend(loc="upper left", frameon=False)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    save_figure(figure, path)
