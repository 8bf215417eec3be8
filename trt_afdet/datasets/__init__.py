"""Datasets on disk, read into one form whatever their format. NumPy and OpenCV only."""

from __future__ import annotations

from pathlib import Path

from trt_afdet.datasets.checks import Report
from trt_afdet.datasets.coco import read_coco
from trt_afdet.datasets.record import Dataset, Record
from trt_afdet.datasets.voc import read_voc
from trt_afdet.datasets.yolo import read_yolo
from trt_afdet.errors import InvalidValueError, MissingFileError

__all__ = ["Dataset", "Record", "Report", "open_dataset", "read_coco", "read_voc", "read_yolo"]


def open_dataset(
    path: str | Path,
    split: str | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    images: str | Path | None = None,
) -> Dataset:
    """Opens a dataset, picking the format by what is on disk.

    ==============================================  =====================
    ``X.json``                                      COCO instances
    ``X/annotations/instances_<split>.json``        COCO
    ``X/ImageSets/Main/<split>.txt``                Pascal VOC
    ``X/VOC*/ImageSets/Main/<split>.txt``           Pascal VOC, the years joined
    ``X.yaml``, ``X/data.yaml``, ``X/labels``       YOLO
    ==============================================  =====================

    Args:
        path: File or folder; several VOC roots are separated by commas.
        split: Such as ``train``; needed where a folder holds several.
        class_names: Classes, for formats that do not name them.
        images: Folder of the pictures, if it is not where the format has it.

    Raises:
        MissingFileError: If there is nothing there; says what was looked for.
        AfdetError: If what is there is broken.
    """
    roots = [Path(p.strip()) for p in str(path).split(",")]
    roots = [root for given in roots for root in _voc_years(given, split or "trainval")]
    if all((r / "ImageSets" / "Main").is_dir() for r in roots):
        return read_voc(roots, split or "trainval", class_names)
    if len(roots) > 1:
        raise InvalidValueError("only VOC folders can be joined by commas", got=path)
    root = roots[0]
    folder = Path(images) if images else None
    if not root.exists():
        raise MissingFileError("no such dataset", got=str(root))
    if root.suffix == ".json":
        return read_coco(root, folder)
    if root.suffix in (".yaml", ".yml"):
        return read_yolo(root, split or "train", class_names)
    if (root / "annotations").is_dir():
        return read_coco(_coco_file(root, split), folder)
    if (root / "data.yaml").is_file() or (root / "labels").is_dir():
        return read_yolo(root, split or "train", class_names)
    raise MissingFileError(
        "no dataset found",
        got=str(root),
        hint="looked for annotations/instances_<split>.json (COCO), ImageSets/Main (VOC), "
        "data.yaml or labels (YOLO)",
    )


def _voc_years(folder: Path, split: str) -> list[Path]:
    """The years in a VOCdevkit that have the split; any other folder as it is."""
    lists = sorted(folder.glob("VOC*/ImageSets/Main"))
    having = [p for p in lists if (p / f"{split}.txt").is_file()] or lists
    return [p.parent.parent for p in having] or [folder]


def _coco_file(root: Path, split: str | None) -> Path:
    have = sorted((root / "annotations").glob("instances_*.json"))
    if split is not None:
        wanted = root / "annotations" / f"instances_{split}.json"
        if not wanted.is_file():
            names = ", ".join(p.stem.removeprefix("instances_") for p in have) or "none"
            raise MissingFileError(f"{root} has no split {split!r}", hint=f"it has {names}")
        return wanted
    if len(have) != 1:
        names = ", ".join(p.stem.removeprefix("instances_") for p in have) or "none"
        raise InvalidValueError(
            f"{root} has {len(have)} splits ({names})", hint="name one: --split"
        )
    return have[0]
