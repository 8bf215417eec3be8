"""COCO: one instances JSON and a folder of pictures (or a video)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from trt_afdet.datasets.checks import Report, check_unique, clean_boxes
from trt_afdet.datasets.record import Dataset, Record
from trt_afdet.errors import AfdetError, CorruptFileError, MissingFileError


def read_coco(file: Path, images: Path | None = None) -> Dataset:
    """Reads an instances JSON.

    Args:
        file: The JSON. An image with a ``frame_index`` is a frame of the video ``file_name``.
        images: Folder of the pictures; by default ``images/<split>``, ``<split>``, ``images`` or
            the JSON's own folder, whichever holds the first picture.

    Raises:
        MissingFileError: If the JSON or a picture is missing.
        CorruptFileError: If the JSON is not what it should be: names the entry.
    """
    raw = _load(file)
    report = Report()
    categories = sorted(raw["categories"], key=lambda c: c["id"])
    check_unique((c["id"] for c in categories), "category id", file)
    check_unique((str(c["name"]) for c in categories), "category name", file)
    check_unique((i["id"] for i in raw["images"]), "image id", file)
    check_unique(((i["file_name"], i.get("frame_index")) for i in raw["images"]), "file name", file)
    check_unique((a["id"] for a in raw["annotations"] if "id" in a), "annotation id", file)
    index = {c["id"]: n for n, c in enumerate(categories)}
    by_image: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in raw["images"]}
    for annotation in raw["annotations"]:
        if annotation["image_id"] not in by_image:
            raise CorruptFileError(
                f"{file}: annotation of an unknown image", got=annotation["image_id"]
            )
        if annotation["category_id"] not in index:
            raise CorruptFileError(
                f"{file}: annotation of an unknown category", got=annotation["category_id"]
            )
        by_image[annotation["image_id"]].append(annotation)
    folder = _image_folder(file, images, [i["file_name"] for i in raw["images"]])
    try:
        records = tuple(
            _record(image, by_image[image["id"]], folder, index, report) for image in raw["images"]
        )
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, AfdetError):
            raise
        raise CorruptFileError(f"{file}: an entry is malformed", got=repr(error)) from error
    if len({r.frame_index is None for r in records}) > 1:
        raise CorruptFileError(f"{file}: some images are frames of a video, others are not")
    _check_files(records, file)
    return Dataset(
        name=str(file),
        class_names=tuple(str(c["name"]) for c in categories),
        records=records,
        category_ids=tuple(int(c["id"]) for c in categories),
        report=report,
    )


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise MissingFileError("no such annotation file", got=str(file))
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFileError("annotations are not JSON", got=f"{file}: {error}") from error
    needed: dict[str, dict[str, type]] = {
        # A size may be written as 640.0.
        "images": {"id": int, "file_name": str, "width": object, "height": object},
        "annotations": {"image_id": int, "category_id": int, "bbox": list},
        "categories": {"id": int, "name": str},
    }
    for section, keys in needed.items():
        if not isinstance(raw, dict) or not isinstance(raw.get(section), list):
            raise CorruptFileError(f"{file} is no COCO instances file: it has no list {section!r}")
        if not raw[section]:
            raise CorruptFileError(f"{file} holds no {section}")
        for number, entry in enumerate(raw[section]):
            for key, kind in keys.items():
                if not isinstance(entry, dict) or key not in entry:
                    raise CorruptFileError(f"{file}: {section}[{number}] has no {key!r}")
                if not isinstance(entry[key], kind):
                    raise CorruptFileError(
                        f"{file}: {key!r} of {section}[{number}] must be {kind.__name__}",
                        got=repr(entry[key])[:40],
                    )
    return raw


def _image_folder(file: Path, images: Path | None, names: list[str]) -> Path:
    if images is not None:
        return images
    split = file.stem.removeprefix("instances_")
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    candidates = [root / "images" / split, root / split, root / "images", file.parent]
    for folder in candidates:
        if (folder / names[0]).is_file():
            return folder
    raise MissingFileError(
        f"{file}: its pictures are not found",
        got=names[0],
        hint="looked in " + ", ".join(dict.fromkeys(str(c) for c in candidates)),
    )


def _record(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    folder: Path,
    index: dict[int, int],
    report: Report,
) -> Record:
    width, height = int(image["width"]), int(image["height"])
    if min(width, height) <= 0:
        raise CorruptFileError(f"{image['file_name']} has no size", got=f"{width}x{height}")
    if any(len(a["bbox"]) != 4 for a in annotations):
        raise CorruptFileError(f"a bbox of {image['file_name']} is not x, y, width, height")
    xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    boxes, kept = clean_boxes(xyxy, width, height, report, str(image["file_name"]))
    annotations = [annotations[i] for i in kept]
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)
    frame_index = image.get("frame_index")
    if frame_index is not None and int(frame_index) < 0:
        raise CorruptFileError(f"{image['file_name']}: frame_index is below 0", got=frame_index)
    return Record.build(
        folder / image["file_name"],
        int(image["id"]),
        width,
        height,
        boxes,
        [index[a["category_id"]] for a in annotations],
        crowd=[bool(a.get("iscrowd", 0)) for a in annotations],
        area=[float(a.get("area", s)) for a, s in zip(annotations, sides, strict=True)],
        segmentations=[a.get("segmentation") or None for a in annotations],
        frame_index=None if frame_index is None else int(frame_index),
    )


def _check_files(records: tuple[Record, ...], file: Path) -> None:
    missing = [p for p in dict.fromkeys(r.path for r in records) if not p.is_file()]
    if missing:
        raise MissingFileError(
            f"{file}: {len(missing)} of its {len(records)} pictures are missing",
            got=f"first: {missing[0]}",
        )
