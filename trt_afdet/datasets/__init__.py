"""Datasets on disk, read into one form whatever their format. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trt_afdet.datasets import coco, foreign, voc, yolo
from trt_afdet.datasets.checks import Report
from trt_afdet.datasets.drafts import finish
from trt_afdet.datasets.find import is_hidden, is_picture
from trt_afdet.datasets.index import ProgressLike
from trt_afdet.datasets.record import Dataset, Record
from trt_afdet.errors import AfdetError, InvalidValueError, MissingFileError

__all__ = ["Dataset", "Record", "Report", "dataset_format", "dataset_splits", "open_dataset"]


def open_dataset(
    path: str | Path,
    split: str | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    model: tuple[str, ...] | None = None,
    merge: Mapping[str, Sequence[str]] | None = None,
    images: str | Path | None = None,
    decode: bool = False,
    progress: ProgressLike | None = None,
    strict: bool = False,
    need_labels: bool = True,
) -> Dataset:
    """Opens a dataset; the files on disk determine the format.

    ==================================================  =====================
    ``X.json``                                          COCO instances
    ``X/annotations/instances_<split>.json``            COCO
    ``X/<split>/_annotations.coco.json``                COCO, Roboflow's
    ``X/result.json``                                   COCO, Label Studio's
    ``X/ImageSets/Main/<split>.txt``                    Pascal VOC
    ``X/VOC*/ImageSets/Main/<split>.txt``               Pascal VOC, the years joined
    ``X.yaml``, ``X/data.yaml``, labels as ``.txt``     YOLO
    ``X/**/*.xml``                                      Pascal VOC, labelImg's
    ==================================================  =====================

    What cannot be used is left out and counted in the dataset's report.

    Args:
        path: File or folder; several VOC roots are separated by commas.
        split: Such as ``train``; needed where a folder holds several.
        class_names: The classes; data with others is refused.
        model: A model's classes, for scoring it: see :meth:`Dataset.for_model`. Formats that name
            no classes take them.
        merge: Classes to merge before any other step: see :meth:`Dataset.merge_classes`.
        images: Folder of the pictures, if it is not where the format has it.
        decode: Decode every picture, to know of damage now and not later. What was found is
            kept in the user's cache folder, by the file's size and time.
        progress: Shows how far the look at the pictures is.
        strict: Refuse a dataset with a fault.
        need_labels: Refuse one without a single label.

    Raises:
        MissingFileError: If nothing is there; says where it looked.
        AfdetError: If the data is broken.
    """
    kind, roots = _find(path, split)
    # VOC's annotations have names.
    names = model if class_names is None and kind != "voc" else class_names
    if merge:
        names = None  # The data has the classes before the merge.
    if kind == "voc":
        found = voc.read_voc(roots, split, names)
    elif kind == "yolo":
        found = yolo.read_yolo(roots[0], split, names, need_labels=need_labels)
    else:
        file = roots[0] if roots[0].is_file() else coco.choose_file(roots[0], split)
        found = coco.read_coco(file, Path(images) if images else None, names)
    dataset = finish(found, decode=decode, progress=progress)
    if merge:
        dataset = dataset.merge_classes(merge)
    if class_names is not None:
        dataset = dataset.with_class_names(class_names)
    if model is not None:
        dataset = dataset.for_model(model)
    if strict and dataset.report.faults:
        lines = "; ".join(dataset.report.lines()[: len(dataset.report.faults)])
        hint = "--strict refuses them"
        raise InvalidValueError(f"{dataset.name} has faults", got=lines, hint=hint)
    return dataset


def dataset_format(path: str | Path) -> str:
    """``coco``, ``voc`` or ``yolo``; raises MissingFileError if it is none."""
    return _find(path, None)[0]


def _find(path: str | Path, split: str | None) -> tuple[str, list[Path]]:
    """The format and its roots."""
    whole = Path(path)
    given = [whole] if whole.exists() else [Path(p.strip()) for p in str(path).split(",")]
    for root in given:
        if not root.exists():
            raise MissingFileError("no such dataset", got=str(root))
    roots = [root for one in given for root in _voc_years(one, split or "trainval")]
    if all((r / "ImageSets").is_dir() for r in roots):
        return "voc", roots
    if len(given) > 1:
        raise InvalidValueError("only VOC folders can be joined by commas", got=path)
    root = given[0]
    suffix = root.suffix.lower()
    if root.is_file():
        if suffix == ".json":
            return "coco", [root]
        if suffix in (".yaml", ".yml", ".data"):
            return "yolo", [root]
        other = foreign.file_format(root)
        if other is not None:
            raise InvalidValueError(f"{root} is {other.what}", hint=other.remedy)
    if not root.is_dir():
        raise InvalidValueError("a dataset is a folder, a .json or a .yaml", got=str(root))
    if coco.find_files(root):
        return "coco", [root]
    if yolo.find_config(root) is not None:
        return "yolo", [root]
    if voc.is_voc(root):
        return "voc", [root]
    if yolo.has_yolo_labels(root):
        return "yolo", [root]
    inner = [p for p in sorted(root.iterdir()) if p.is_dir() and not is_hidden(p.name)]
    if len(inner) == 1 and not any(is_picture(p) for p in root.iterdir()):
        try:  # An archive's own folder.
            _find(inner[0], split)
        except AfdetError:
            pass
        else:
            raise MissingFileError("no dataset found", got=str(root), hint=f"there is {inner[0]}")
    other = foreign.folder_format(root)
    raise MissingFileError(f"{root} is {other.what}", hint=other.remedy)


def dataset_splits(path: str | Path) -> list[str | None]:
    """The splits of a dataset; [None] where it is one whole."""
    kind, roots = _find(path, None)
    root = roots[0]
    if kind == "coco":
        splits = [] if root.is_file() else [s for s in coco.find_files(root) if s != "all"]
    else:
        splits = yolo.splits_of(root) if kind == "yolo" else voc.splits_of(roots)
    return [*splits] or [None]


def _voc_years(folder: Path, split: str) -> list[Path]:
    """The years in a VOCdevkit that have the split; any other folder unchanged."""
    lists = sorted(folder.glob("VOC*/ImageSets/Main"))
    having = [p for p in lists if (p / f"{split}.txt").is_file()] or lists
    return [p.parent.parent for p in having] or [folder]
