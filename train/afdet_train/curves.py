"""The training curve of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trt_afdet.support.figures import new_figure, save_figure


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line cut by a kill is left out.

    An interrupted run may have written some iterations twice; the later ones count.
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
    """Losses and learning rate above, validation AP below, over iterations."""
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
