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
        label = f"all classes  {result.ap50:.3f}"
        axes.plot(recall, mean, color="black", lw=2.8, zorder=3, label=label)
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
    title = f"Precision and recall at IoU 0.50  ({result.images} pictures, AP {result.ap:.3f})"
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        look = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "fontsize": "small"}
        axes.legend(title="class, AP50", frameon=False, **look)
    save_figure(figure, path)


def plot_confusion(
    matrix: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    path: Path,
    *,
    iou: float = 0.5,
    conf: float = 0.3,
) -> None:
    """A :func:`confusion_matrix`: counts as numbers, shares of the true class as colours.

    The title tells the matrix's ``iou`` and ``conf``.
    """
    count = len(class_names) + 1
    side = 3.5 + 0.42 * count
    figure = new_figure(side + 1.2, side)
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix):
        color = "white" if share[row, column] > 0.55 else "black"
        text = axes.text(column, row, str(matrix[row, column]), fontsize=7, color=color)
        text.set(ha="center", va="center")
    turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(count), [*class_names, "(missed)"], **turned)
    axes.set_yticks(range(count), [*class_names, "(false alarm)"])
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", lw=0.7)
    axes.tick_params(which="minor", length=0)
    for line in (axes.axhline, axes.axvline):
        line(len(class_names) - 0.5, color="0.4", lw=1.2)
    title = f"Confusion at IoU {iou:.2f}, confidence above {conf:.2f} (counts)"
    axes.set(xlabel="detected as", ylabel="truth", title=title)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    save_figure(figure, path)
