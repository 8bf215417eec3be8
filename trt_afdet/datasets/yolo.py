"""YOLO: a text file of ``class x y w h`` lines (relative centre and size) per picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_afdet.datasets.checks import Report, check_unique, clean_boxes
from trt_afdet.datasets.record import Dataset, Record
from trt_afdet.errors import (
    CorruptFileError,
    InvalidValueError,
    MissingDependencyError,
    MissingFileError,
)
from trt_afdet.media import read_picture

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_yolo(
    path: Path, split: str = "train", class_names: tuple[str, ...] | None = None
) -> Dataset:
    """Reads a data.yaml, or a folder with ``images`` and ``labels`` (and maybe a data.yaml).

    A picture without a text file has no objects.

    Args:
        path: The folder or the YAML.
        split: A key of the YAML, or a folder under ``images``.
        class_names: Needed where there is no YAML.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: With one line each.
    """
    config = path if path.suffix in (".yaml", ".yml") else path / "data.yaml"
    root = config.parent
    if config.is_file():
        folder, names = _from_yaml(config, split)
        names = class_names or names
    elif class_names:
        folder, names = root / "images" / split, class_names
        folder = folder if folder.is_dir() else root / "images"
    else:
        raise MissingFileError(
            "YOLO data needs class names", got=str(config), hint="write data.yaml"
        )
    pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    if not pictures:
        raise MissingFileError("no pictures found", got=str(folder))
    report = Report()
    records = tuple(
        _record(picture, number, names, report) for number, picture in enumerate(pictures, 1)
    )
    return Dataset(
        name=str(path),
        class_names=tuple(names),
        records=records,
        category_ids=tuple(range(1, len(names) + 1)),
        report=report,
    )


def _from_yaml(config: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "reading data.yaml needs PyYAML", hint='pip install "trt-afdet[train]"'
        ) from error
    try:
        raw: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptFileError("not YAML", got=str(config)) from error
    if not isinstance(raw, dict) or not raw.get("names"):
        raise CorruptFileError("data.yaml has no 'names'", got=str(config))
    names = raw["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise CorruptFileError("data.yaml's class ids must be 0, 1, 2, ...", got=str(config))
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list):
        raise CorruptFileError("data.yaml's 'names' must be a list", got=str(config))
    check_unique(map(str, names), "class name", config)
    if not isinstance(raw.get(split), str):
        have = ", ".join(k for k in ("train", "val", "test") if isinstance(raw.get(k), str))
        raise InvalidValueError(
            f"{config} has no folder for split {split!r}", hint=f"it has {have or 'none'}"
        )
    base = config.parent / str(raw.get("path", "."))
    folder = base / str(raw[split])
    if not folder.is_dir():
        raise MissingFileError("no such folder of pictures", got=str(folder))
    return folder, tuple(str(n) for n in names)


def _labels_file(picture: Path) -> Path:
    """YOLO's rule: the last ``images`` in the path becomes ``labels``, the suffix ``.txt``."""
    parts = list(picture.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _record(picture: Path, image_id: int, names: tuple[str, ...], report: Report) -> Record:
    width, height = _size(picture)
    file = _labels_file(picture)
    rows = _read_rows(file, len(names)) if file.is_file() else np.zeros((0, 5))
    half = rows[:, 3:5] / 2
    xyxy = np.concatenate([rows[:, 1:3] - half, rows[:, 1:3] + half], axis=1)
    xyxy = xyxy * [width, height, width, height]
    boxes, kept = clean_boxes(xyxy, width, height, report, str(file))
    return Record.build(picture, image_id, width, height, boxes, rows[kept, 0].astype(np.int64))


def _read_rows(file: Path, num_classes: int) -> npt.NDArray[np.float64]:
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptFileError("labels are not text", got=str(file)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = [float(v) for v in line.split()]
        except ValueError:
            raise CorruptFileError(f"{file}:{number}: not numbers", got=line[:40]) from None
        if len(values) != 5:
            raise CorruptFileError(
                f"{file}:{number}: expected 'class x y w h'", got=f"{len(values)} values"
            )
        # A box that is not finite is dropped and counted later; a class must be a number.
        if not values[0].is_integer() or not 0 <= values[0] < num_classes:
            raise InvalidValueError(
                f"{file}:{number}: class id out of range 0..{num_classes - 1}", got=line.split()[0]
            )
        rows.append(values)
    return np.array(rows, np.float64).reshape(-1, 5)


def _size(picture: Path) -> tuple[int, int]:
    """Width and height; the pixels are decoded, because OpenCV has no way to read a header."""
    frame = read_picture(picture)
    return int(frame.shape[1]), int(frame.shape[0])
