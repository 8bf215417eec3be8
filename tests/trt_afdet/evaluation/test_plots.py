"""The pictures of an evaluation are there, whole, and show what they should."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_afdet.errors import MissingDependencyError, WriteError
from trt_afdet.evaluation.coco import ClassResult, CocoResult
from trt_afdet.evaluation.plots import plot_confusion, plot_precision_recall


def result(classes: int, *, truths: int = 3) -> CocoResult:
    curve = np.linspace(1, 0, 101)
    parts = tuple(ClassResult(f"class{i}", truths, 0.4, 0.5, curve) for i in range(classes))
    return CocoResult(0.4, 0.5, 0.4, 0.1, 0.2, 0.3, 0.6, parts, images=7)


def inked(path: Path) -> float:
    """Share of pixels that are not white."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return float((picture.min(axis=2) < 250).mean())


@pytest.mark.parametrize("classes", [1, 15, 80])
def test_precision_recall_fits_its_picture(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "new" / "pr.png"
    plot_precision_recall(result(classes), path)
    picture = cv2.imread(str(path))
    assert picture is not None
    border = np.concatenate([picture[:3].ravel(), picture[-3:].ravel(), picture[:, -3:].ravel()])
    assert (border == 255).all()  # nothing runs over the edge, the legend neither
    assert [p.name for p in path.parent.iterdir()] == ["pr.png"]  # no temporary file left


def test_classes_without_truth_have_no_curve(tmp_path: Path) -> None:
    plot_precision_recall(result(5), tmp_path / "some.png")
    plot_precision_recall(result(5, truths=0), tmp_path / "none.png")
    assert inked(tmp_path / "none.png") < inked(tmp_path / "some.png")


def test_confusion_colours_are_shares_of_the_row(tmp_path: Path) -> None:
    names = ("cat", "dog")
    plot_confusion(np.diag([5, 900, 0]), names, tmp_path / "right.png")
    plot_confusion(np.zeros((3, 3), np.int64), names, tmp_path / "empty.png")
    right, empty = (cv2.imread(str(tmp_path / f"{n}.png")) for n in ("right", "empty"))
    assert right is not None
    assert empty is not None
    darkest = np.array([107, 48, 8])  # the map's colour for 1, as BGR
    dark = (np.abs(right.astype(int) - darkest).max(axis=2) < 4).mean()
    base = (np.abs(empty.astype(int) - darkest).max(axis=2) < 4).mean()
    assert dark > base + 0.02  # two cells, few and many alike


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        plot_precision_recall(result(1), tmp_path / "file" / "pr.png")


def test_matplotlib_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .*matplotlib"):
        plot_confusion(np.zeros((2, 2), np.int64), ("cat",), tmp_path / "c.png")
    assert not list(tmp_path.iterdir())
