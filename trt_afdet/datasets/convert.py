"""Datasets written in any format."""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trt_afdet.datasets import Dataset, Record, Report, dataset_splits, open_dataset
from trt_afdet.datasets.index import ProgressLike
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.support.files import write_error

FORMATS = ("coco", "voc", "yolo")


def open_all(
    path: str | Path,
    split: str | None = None,
    *,
    decode: bool = False,
    progress: ProgressLike | None = None,
) -> dict[str | None, Dataset]:
    """All splits of a dataset (or one), with one class list.

    The classes are the first split's, then further ones of later splits. A split that cannot be
    opened is a fault in the report of the others; if none can, the first one's error is raised.
    """
    wanted = [split] if split is not None else dataset_splits(path)
    opened: dict[str | None, Dataset] = {}
    errors: dict[str | None, AfdetError] = {}
    for name in wanted:
        try:
            data = open_dataset(path, name, decode=decode, progress=progress, need_labels=False)
            opened[name] = data
        except (MissingFileError, CorruptFileError) as error:
            errors[name] = error
    if not opened:
        raise next(iter(errors.values()))
    first = next(iter(opened.values()))
    for name, met in errors.items():
        first.report.add("splits that cannot be opened left out", f"{name}: {met}")
    note_shared(opened, first.report)
    names = tuple(dict.fromkeys(n for data in opened.values() for n in data.class_names))
    return {name: data.with_class_names(names) for name, data in opened.items()}


def note_shared(opened: Mapping[Any, Dataset], report: Report) -> None:
    """Notes pictures that several splits hold: scores on them are too good."""
    seen: dict[tuple[str, int | None], Any] = {}
    for name, data in opened.items():
        for record in data.records:
            other = seen.setdefault((os.path.realpath(record.path), record.frame_index), name)
            if other != name:
                kind = f"pictures of {name!r} are in {other!r} as well, scores on them mean little"
                report.note(kind, str(record.path))


def convert(
    source: str | Path,
    target: Path,
    form: str,
    *,
    split: str | None = None,
    link: bool = False,
    progress: ProgressLike | None = None,
) -> dict[str, Dataset]:
    """Writes a dataset in another format, all splits or one.

    Args:
        source: Whatever :func:`open_dataset` reads, but no video.
        target: A folder that does not exist or is empty. It appears when all is written.
        form: One of :data:`FORMATS`.
        split: The only one to write.
        link: Link to the pictures instead of copying them.
        progress: Shows how far it is.

    Returns:
        The written data, by split; the reports name what the format cannot hold.

    Raises:
        InvalidValueError: If the target is not empty, or the source is a video.
        WriteError: If it cannot be written.
    """
    if form not in FORMATS:
        raise InvalidValueError("unknown format", got=form, hint=f"use {', '.join(FORMATS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        hint = "name a new folder"
        raise InvalidValueError("the target exists and is not empty", got=str(target), hint=hint)
    opened = open_all(source, split, progress=progress)
    splits = {name or "train": data for name, data in opened.items()}
    for data in splits.values():
        if data.is_video:
            what, hint = "frames of a video cannot be converted", "save them as pictures"
            raise InvalidValueError(what, got=data.name, hint=hint)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    write = {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}[form]
    try:
        part.mkdir(parents=True)
        taken: set[str] = set()
        for name, data in splits.items():
            # VOC keeps the pictures of all splits in one folder.
            files = _file_names(data.records, taken if form == "voc" else set())
            folder = part / ("JPEGImages" if form == "voc" else f"images/{name}")
            folder.mkdir(parents=True, exist_ok=True)
            pairs: Iterable[Any] = list(zip(data.records, files, strict=True))
            if progress is not None:
                pairs = progress(pairs, len(files), f"writing {name}")
            for record, file in pairs:
                if link:
                    (folder / file).symlink_to(record.path.absolute())
                else:
                    shutil.copyfile(record.path, folder / file)
            write(part, name, data, files)
            if form != "coco":
                unsure = sum(int((record.scores < 1).sum()) for record in data.records)
                kind = "labels written without their score, which only COCO files keep"
                data.report.note(kind, name, unsure)
        _finish(part, form, splits)
        if target.exists():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return splits


def _file_names(records: Sequence[Record], taken: set[str]) -> list[str]:
    """A name for each picture; no two stems are the same, whatever their case."""
    names = []
    for record in records:
        stem, number = record.path.stem, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{record.path.stem}_{number}"
        taken.add(stem.lower())
        names.append(stem + record.path.suffix)
    return names


def _write_coco(root: Path, split: str, data: Dataset, files: list[str]) -> None:
    images = [
        {"id": record.image_id, "file_name": file, "width": record.width, "height": record.height}
        for record, file in zip(data.records, files, strict=True)
    ]
    annotations: list[dict[str, Any]] = []
    for record in data.records:
        for i, box in enumerate(record.boxes.tolist()):
            x1, y1, x2, y2 = box
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": record.image_id,
                "category_id": data.category_ids[int(record.labels[i])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(record.area[i]),
                "iscrowd": int(record.crowd[i]),
            }
            if record.difficult[i]:
                entry["ignore"] = 1
            if record.scores[i] < 1:
                entry["score"] = float(record.scores[i])
            if record.segmentations[i] is not None:
                entry["segmentation"] = record.segmentations[i]
            annotations.append(entry)
    classes = zip(data.category_ids, data.class_names, strict=True)
    categories = [{"id": i, "name": n} for i, n in classes]
    target = root / "annotations" / f"instances_{split}.json"
    target.parent.mkdir(exist_ok=True)
    raw = {"images": images, "annotations": annotations, "categories": categories}
    target.write_text(json.dumps(raw), encoding="utf-8")


def _write_voc(root: Path, split: str, data: Dataset, files: list[str]) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    crowds = 0
    for record, file in zip(data.records, files, strict=True):
        top = ElementTree.Element("annotation")
        _add(top, "folder", "JPEGImages")
        _add(top, "filename", file)
        size = ElementTree.SubElement(top, "size")
        for tag, value in (("width", record.width), ("height", record.height), ("depth", 3)):
            _add(size, tag, str(value))
        for i, (x1, y1, x2, y2) in enumerate(record.boxes.tolist()):
            item = ElementTree.SubElement(top, "object")
            _add(item, "name", data.class_names[int(record.labels[i])])
            crowds += int(record.crowd[i])
            # VOC has no crowds; a difficult object is left out of training and scores as well.
            _add(item, "difficult", str(int(record.difficult[i] or record.crowd[i])))
            box = ElementTree.SubElement(item, "bndbox")
            corners = (x1 + 1, y1 + 1, x2, y2)
            for tag, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                _add(box, tag, f"{corner:.5f}".rstrip("0").rstrip("."))
        stem = Path(file).stem
        ElementTree.ElementTree(top).write(root / "Annotations" / f"{stem}.xml", encoding="utf-8")
    data.report.note("crowds written as difficult objects", split, crowds)
    stems = "".join(f"{Path(f).stem}\n" for f in files)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(stems, encoding="utf-8")


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _write_yolo(root: Path, split: str, data: Dataset, files: list[str]) -> None:
    folder = root / "labels" / split
    folder.mkdir(parents=True)
    left_out = 0
    for record, file in zip(data.records, files, strict=True):
        counted = ~record.ignored
        left_out += int(record.ignored.sum())
        low, high = np.hsplit(record.boxes[counted].astype(np.float64), 2)
        sides = (record.width, record.height)
        table = np.concatenate([(low + high) / 2 / sides, (high - low) / sides], axis=1)
        lines = [
            f"{label} {' '.join(f'{v:.10f}' for v in row)}\n"
            for label, row in zip(record.labels[counted], table, strict=True)
        ]
        (folder / f"{Path(file).stem}.txt").write_text("".join(lines), encoding="utf-8")
    data.report.add("crowds and difficult objects left out: YOLO cannot mark them", split, left_out)


def _finish(root: Path, form: str, splits: dict[str, Dataset]) -> None:
    """The class list, once for all splits."""
    names = next(iter(splits.values())).class_names
    if form == "voc":
        (root / "classes.txt").write_text("".join(f"{n}\n" for n in names), encoding="utf-8")
    if form == "yolo":
        lines = [f"{split}: {json.dumps(f'images/{split}')}\n" for split in splits]
        lines.append("names:\n")
        # A string of JSON is one of YAML.
        lines += [f"  {i}: {json.dumps(n, ensure_ascii=False)}\n" for i, n in enumerate(names)]
        (root / "data.yaml").write_text("".join(lines), encoding="utf-8")


def merged_report(datasets: Iterable[Dataset]) -> Report:
    """The findings of all splits as one."""
    report = Report()
    for data in datasets:
        report.merge(data.report)
    return report
