"""Pictures of an evaluation: precision-recall curves and the confusion matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.errors import MissingDependencyError
from trt_afdet.evaluation.coco import CocoResult
from trt_afdet.files import atomic_path


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need matplotlib", hint='pip install "trt-afdet[plots]"'
        ) from error
    # No pyplot: its global state and choice of a screen have no place in a library.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_precision_recall(result: CocoResult, path: Path) -> None:
    """One precision-recall curve per class at IoU .50, and their mean."""
    figure, axes = _figure(10.5, 6.5)
    from matplotlib import colormaps

    recall = np.linspace(0, 1, 101)
    shown = sorted((c for c in result.classes if c.truths), key=lambda c: -c.ap50)
    colours = colormaps["turbo"](np.linspace(0.05, 0.95, max(1, len(shown))))
    for colour, one in zip(colours, shown, strict=True):
        curve = np.clip(one.precision, 0, 1)
        axes.plot(recall, curve, color=colour, lw=1.4, label=f"{one.name}  {one.ap50:.3f}")
    if shown:
        mean = np.mean([np.clip(c.precision, 0, 1) for c in shown], axis=0)
        axes.plot(recall, mean, color="black", lw=2.8, label=f"all classes  {result.ap50:.3f}")
    axes.set(
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"Precision and recall at IoU 0.50  ({result.images} pictures, AP {result.ap:.3f})",
    )
    axes.grid(alpha=0.3)
    axes.legend(
        title="class, AP50", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
        fontsize="small",
    )  # fmt: skip
    _save(figure, path)


def plot_confusion(matrix: npt.NDArray[np.int64], class_names: tuple[str, ...], path: Path) -> None:
    """The confusion matrix, each row as shares of its true class."""
    names = [*class_names, "background"]
    side = 3.5 + 0.42 * len(names)
    figure, axes = _figure(side + 1.2, side)
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            if matrix[row, column]:
                axes.text(
                    column,
                    row,
                    str(matrix[row, column]),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if share[row, column] > 0.55 else "black",
                )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="detected as", ylabel="truth", title="Confusion at IoU 0.50 (counts)")
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    _save(figure, path)
