"""Pictures of an evaluation: precision-recall curves and the confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_afdet.evaluation.coco import CocoResult
from trt_afdet.support.figures import new_figure, save_figure

#: Most classes that get a colour and a name.
_NAMED = 24


def plot_precision_recall(result: CocoResult, path: Path) -> None:
    """One precision-recall curve per class at IoU .50, and their mean."""
    figure = new_figure(10.5, 6.5)
    axes = figure.add_subplot()
    from matplotlib import colormaps

    recall = np.linspace(0, 1, 101)
    shown = sorted((c for c in result.classes if c.truths), key=lambda c: -c.ap50)
    if shown:
        mean = np.mean([np.clip(c.precision, 0, 1) for c in shown], axis=0)
        axes.plot(
            recall, mean, color="black", lw=2.8, zorder=3, label=f"all classes  {result.ap50:.3f}"
        )
    # Of many classes, the legend can hold the best and the worst; the rest is a grey background.
    named = shown if len(shown) <= _NAMED else shown[: _NAMED // 2] + shown[-(_NAMED // 2) :]
    chosen = {c.name for c in named}
    colours = iter(colormaps["turbo"](np.linspace(0.05, 0.95, max(1, len(named)))))
    for one in shown:
        curve = np.clip(one.precision, 0, 1)
        if one.name in chosen:
            label = f"{one.name}  {one.ap50:.3f}"
            axes.step(recall, curve, where="post", color=next(colours), lw=1.3, label=label)
        else:
            axes.step(recall, curve, where="post", color="0.75", lw=0.6, zorder=1)
    if len(named) < len(shown):
        axes.plot([], [], color="0.75", lw=0.6, label=f"{len(shown) - len(named)} more between")
    axes.set(
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"Precision and recall at IoU 0.50  ({result.images} pictures, AP {result.ap:.3f})",
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        axes.legend(
            title="class, AP50", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
            fontsize="small",
        )  # fmt: skip
    save_figure(figure, path)


def plot_confusion(
    matrix: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    path: Path,
    *,
    iou: float = 0.5,
    conf: float = 0.3,
) -> None:
    """The confusion matrix: counts as numbers, each row's shares of its true class as colours.

    Args:
        matrix: int64 [K + 1, K + 1], of :func:`confusion_matrix`.
        class_names: K names.
        path: The PNG.
        iou, conf: Of the matrix, for the title.
    """
    rows = [*class_names, "(false alarm)"]
    names = [*class_names, "(missed)"]
    side = 3.5 + 0.42 * len(names)
    figure = new_figure(side + 1.2, side)
    axes = figure.add_subplot()
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
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", lw=0.7)
    axes.tick_params(which="minor", length=0)
    for line in (axes.axhline, axes.axvline):
        line(len(class_names) - 0.5, color="0.4", lw=1.2)
    axes.set(
        xlabel="detected as",
        ylabel="truth",
        title=f"Confusion at IoU {iou:.2f}, confidence above {conf:.2f} (counts)",
    )
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    save_figure(figure, path)
