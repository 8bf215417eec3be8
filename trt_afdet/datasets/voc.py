"""Pascal VOC: one XML per picture, lists of pictures per split."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from trt_afdet.datasets.checks import Report, check_unique, clean_boxes
from trt_afdet.datasets.record import Dataset, Record
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_voc(
    roots: list[Path], split: str = "trainval", class_names: tuple[str, ...] | None = None
) -> Dataset:
    """Reads one or more VOC roots (07+12 is two of them) as one dataset.

    Coordinates are made 0-based by taking 1 from the lower corner; VOC's inclusive upper corner
    then is the exclusive one. Difficult objects are kept and marked.

    Args:
        roots: Folders with Annotations, JPEGImages and ImageSets/Main.
        split: Name of a list in ImageSets/Main.
        class_names: Other classes than VOC's twenty.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: With one line each.
    """
    names = class_names or CLASSES
    report = Report()
    records: list[Record] = []
    for root in roots:
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            have = sorted(p.stem for p in listing.parent.glob("*.txt") if "_" not in p.stem)
            raise MissingFileError(
                f"VOC root {root} has no split {split!r}",
                hint=f"it has {', '.join(have) or 'none'}",
            )
        stems = [line.split()[0] for line in _lines(listing) if line.strip()]
        if not stems:
            raise CorruptFileError("the split's list is empty", got=str(listing))
        check_unique(stems, "picture", listing)
        for stem in stems:
            records.append(_record(root, stem, len(records) + 1, names, report))
    return Dataset(
        name=", ".join(str(r) for r in roots),
        class_names=tuple(names),
        records=tuple(records),
        category_ids=tuple(range(1, len(names) + 1)),
        report=report,
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptFileError("the split's list is not text", got=str(file)) from error


class _DoctypeFoundError(Exception):
    pass


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses DOCTYPE in any encoding, where entities that grow without bound are declared."""

    def doctype(self, *_: object) -> None:
        raise _DoctypeFoundError


def _parse(file: Path) -> ElementTree.Element:
    if not file.is_file():
        raise MissingFileError("no such annotation file", got=str(file))
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        parser.feed(file.read_bytes())
        return parser.close()
    except _DoctypeFoundError:
        raise CorruptFileError("annotation declares a DOCTYPE", got=str(file)) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise CorruptFileError("annotation is not XML", got=f"{file}: {error}") from error


def _number(node: ElementTree.Element, tag: str, file: Path) -> float:
    text = node.findtext(tag)
    try:
        return float(text or "")
    except ValueError:
        raise CorruptFileError(f"{file}: <{tag}> of <{node.tag}> is no number", got=text) from None


def _record(root: Path, stem: str, image_id: int, names: tuple[str, ...], report: Report) -> Record:
    file = root / "Annotations" / f"{stem}.xml"
    tree = _parse(file)
    size = tree.find("size")
    if size is None:
        raise CorruptFileError("annotation has no <size>", got=str(file))
    sides = _number(size, "width", file), _number(size, "height", file)
    if not all(math.isfinite(side) and side >= 1 for side in sides):
        raise CorruptFileError(f"{file}: <size> is no size", got=f"{sides[0]} x {sides[1]}")
    width, height = int(sides[0]), int(sides[1])
    raw, labels, difficult = [], [], []
    for node in tree.iter("object"):
        name = (node.findtext("name") or "").strip()
        if name not in names:
            raise InvalidValueError(f"{file}: unknown class", got=name, hint=", ".join(names))
        box = node.find("bndbox")
        if box is None:
            raise CorruptFileError(f"{file}: an object has no <bndbox>")
        x1, y1, x2, y2 = (_number(box, tag, file) for tag in ("xmin", "ymin", "xmax", "ymax"))
        raw.append((x1 - 1, y1 - 1, x2, y2))
        labels.append(names.index(name))
        difficult.append((node.findtext("difficult") or "0").strip() == "1")
    boxes, kept = clean_boxes(np.array(raw), width, height, report, str(file))
    return Record.build(
        _picture(root, stem),
        image_id,
        width,
        height,
        boxes,
        np.array(labels, np.int64)[kept],
        difficult=np.array(difficult, bool)[kept],
    )


def _picture(root: Path, stem: str) -> Path:
    for suffix in _SUFFIXES:
        path = root / "JPEGImages" / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise MissingFileError("no such picture", got=str(root / "JPEGImages" / f"{stem}.jpg"))
