"""Pascal VOC: one XML per picture, maybe lists of pictures per split."""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from trt_afdet.datasets import find, foreign
from trt_afdet.datasets.checks import Report
from trt_afdet.datasets.drafts import Draft, Drafts
from trt_afdet.datasets.find import SPLITS, Folders, fold, is_picture, same_name, split_names
from trt_afdet.errors import CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.media import PICTURE_SUFFIXES
from trt_afdet.support.text import marked_encoding, read_bytes, read_text

#: The twenty classes, in the order of the paper's and everybody's lists.
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

#: Share of the pictures that "val" gets where the data has no splits.
VAL_SHARE = 0.2
#: Of that split.
SPLIT_SEED = 0

_CLASS_FILES = ("labelmap.txt", "classes.txt", "predefined_classes.txt", "labels.txt", "obj.names")
_PICTURE_FOLDERS = ("JPEGImages", "images", "image", "imgs", "img", "pictures", "photos")
_XML_FOLDERS = ("Annotations", "annotation", "labels", "xml", "xmls")


def read_voc(roots: list[Path], split: str | None, class_names: tuple[str, ...] | None) -> Drafts:
    """Reads one or more VOC roots (07+12 is two of them) as one dataset.

    Coordinates are made 0-based by taking 1 from the lower corner; VOC's inclusive upper corner
    then is the exclusive one. Difficult objects are kept and marked.

    The classes are ``class_names``, else those of a labelmap.txt or classes.txt, else all names in
    the annotations of all splits: VOC's twenty in their order if they are among them, else sorted.
    """
    report = Report()
    reader = _Reader(report)
    items = [item for root in roots for item in _find_items(root, split, report, reader.folders)]
    pages = [page for item in items if (page := reader.page(item)) is not None]
    names = class_names or _class_names(roots, pages, report)
    index = _class_index(names, pages, report)
    drafts = []
    for number, page in enumerate(pages, 1):
        page.draft.image_id = number
        page.draft.labels = [index[name] for name in page.names]
        drafts.append(page.draft)
    return Drafts(", ".join(str(r) for r in roots), names, drafts, report)


class _Item(NamedTuple):
    """A picture's annotation, where the picture may be, and its name without suffix."""

    xml: Path
    folders: tuple[Path, ...]
    stem: str


class _Page(NamedTuple):
    """An annotation with the class names of its objects."""

    draft: Draft
    names: list[str]


def is_voc(root: Path) -> bool:
    """Whether the folder holds VOC annotations in some layout."""
    return bool(_lists_folder(root) or _xml_files(root))


def _lists_folder(root: Path) -> Path | None:
    main = root / "ImageSets" / "Main"
    filled = (folder for folder in (main, main.parent) if any(folder.glob("*.txt")))
    return next(filled, main if main.is_dir() else None)


def _list_names(lists: Path) -> list[str]:
    return sorted(p.stem for p in lists.glob("*.txt") if "_" not in p.stem)


def _xml_files(root: Path) -> list[Path]:
    return [p for p in find.walk_files(root, Report()) if p.suffix.lower() == ".xml"]


def _find_items(root: Path, split: str | None, report: Report, folders: Folders) -> list[_Item]:
    """The annotations of a split.

    Those that a list of ``ImageSets/Main`` or ``ImageSets`` names; else those in folders of the
    split's name (also ``valid`` for ``val``); else all, which ``train`` and ``val`` divide 4 to 1
    by a seeded draw.
    """
    lists = _lists_folder(root)
    if lists is not None:
        return _listed(root, lists, split, report, folders)
    every = _xml_files(root)
    places = {p: {x.lower() for x in p.relative_to(root).parts[:-1]} for p in every}

    def inside(*names: str) -> list[Path]:
        return [p for p in every if places[p] & {name.lower() for name in names}]

    splits = [name for group in SPLITS for name in split_names(group)]
    wanted = split_names(split or "trainval")
    if wanted == ("trainval",) and (split is None or not inside(*splits)):
        chosen = every
    elif split == "trainval":
        chosen = inside(*split_names("train"), *split_names("val"))
    elif inside(*wanted):
        chosen = inside(*wanted)
    elif inside(*splits) or not {"train", "val"} & set(wanted):
        have = ", ".join(name for name in splits if inside(name)) or "no lists of splits"
        raise MissingFileError(f"VOC root {root} has no split {split!r}", hint=f"it has {have}")
    else:
        order = np.random.default_rng(SPLIT_SEED).permutation(len(every))
        held = set(order[: max(1, round(VAL_SHARE * len(every)))].tolist())
        chosen = [p for i, p in enumerate(every) if (i in held) == ("val" in wanted)]
        made = "it has no split of its own, so one of 4 to 1 is made, always the same"
        report.note(f"pictures are the data's {split!r}: {made}", str(root), len(chosen))
    return [_Item(p, _near(p, root, folders), p.stem) for p in chosen]


def _near(xml: Path, root: Path, folders: Folders) -> tuple[Path, ...]:
    """Folders in which the picture of an annotation may be: beside it, or beside its folder."""
    found = [xml.parent]
    for place in xml.parents:
        # Annotations/train/a.xml goes with JPEGImages/train/a.jpg.
        inner = xml.parent.relative_to(place).parts[1:]
        for name in _PICTURE_FOLDERS:
            base = folders.find_folder(place, name)
            if base is not None:
                found += [base.joinpath(*inner), base]
        found.append(place)
        if place == root:
            break
    return tuple(dict.fromkeys(found))


def _listed(
    root: Path, lists: Path, split: str | None, report: Report, folders: Folders
) -> list[_Item]:
    have = _list_names(lists)
    if split is None:
        chosen = ["trainval"] if "trainval" in have else have
    else:
        chosen = [n for n in split_names(split) if (lists / f"{n}.txt").is_file()][:1]
        if not chosen and split == "trainval":
            chosen = [n for n in ("train", "val") if n in have]
    if not chosen:
        hint = f"it has {', '.join(have) or 'none'}"
        raise MissingFileError(f"VOC root {root} has no split {split!r}", hint=hint)
    xml_folder = find.first(folders.find_folder(root, name) for name in _XML_FOLDERS)
    xml_folder = xml_folder or root / "Annotations"
    items: dict[str, _Item] = {}
    for name in chosen:
        file = lists / f"{name}.txt"
        lines = _lines(file)
        if not lines and len(chosen) == 1:
            raise CorruptFileError("the split's list is empty", got=str(file))
        for line in lines:
            stem, xml = _listed_stem(line, xml_folder, folders)
            if str(xml) in items:
                report.note("pictures listed twice, taken once", f"{file}: {stem}")
            else:
                items[str(xml)] = _Item(xml, _near(xml, root, folders), Path(stem).name)
    return list(items.values())


def _listed_stem(line: str, xml_folder: Path, folders: Folders) -> tuple[str, Path]:
    """A list's line: a stem, a name with suffix, a path, or a class file's ``stem  1``."""
    flag = re.fullmatch(r"(.*\S)\s+-?[01]", line)
    stems: list[str] = []
    for text in (line, flag[1] if flag else line, line.split()[0]):
        path = Path(text.replace("\\", "/"))
        known = path.suffix.lower() in (*PICTURE_SUFFIXES, ".xml")
        inner = path.with_suffix("") if known else path
        stems += [inner.name] if path.is_absolute() else [str(inner), inner.name]
    for stem in stems:
        xml = folders.find(xml_folder, f"{stem}.xml")
        if xml is not None:
            return stem, xml
    likely = flag[1] if flag else stems[0]
    return likely, xml_folder / f"{likely}.xml"


def _lines(file: Path) -> list[str]:
    """The lines of a list that are neither blank nor comments."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _class_names(roots: list[Path], pages: list[_Page], report: Report) -> tuple[str, ...]:
    used = Counter(name for page in pages for name in page.names)
    for root in roots:
        listed = _class_list(root)
        if listed is not None:
            names, file = listed
            more = sorted(n for n in used if same_name(n, names) is None)
            kind = "classes of the annotations are not in the class list"
            report.note(kind, str(file), len(more))
            return (*names, *more)
    read = {page.draft.where for page in pages}
    quiet = _Reader(Report())
    others = [xml for root in roots for xml in _xml_files(root) if str(xml) not in read]
    for xml in others:
        with suppress(CorruptFileError, MissingFileError):  # Counted where its own split is read.
            used.update(_object_name(node) for node in quiet.tree(xml).iter("object"))
    if {n.lower() for n in used} <= set(CLASSES):  # "Dog" is VOC's dog.
        return CLASSES
    # Names that differ by case alone are kept apart: only the user knows whether they are one.
    first: dict[str, str] = {}
    for name in sorted(used):
        other = first.setdefault(fold(name), name)
        if other != name:
            report.note("classes differ from another by case alone", f"{other!r} and {name!r}")
    return tuple(sorted(used))


def _class_list(root: Path) -> tuple[tuple[str, ...], Path] | None:
    """The names of a labelmap.txt or classes.txt near the data, and the file."""
    places = [root, *(root / f for f in ("Annotations", "labels", "JPEGImages", "images"))]
    for file in (place / name for place in places for name in _CLASS_FILES):
        lines = _lines(file) if file.is_file() else []
        if file.name == "labelmap.txt":
            lines = [line.split(":")[0].strip() for line in lines]
            lines = [line for line in lines if line and line != "background"]
        if lines:
            return tuple(dict.fromkeys(lines)), file
    return None


def _class_index(names: tuple[str, ...], pages: list[_Page], report: Report) -> dict[str, int]:
    used = Counter(name for page in pages for name in page.names)
    first = {name: page.draft.where for page in reversed(pages) for name in page.names}
    meant = {name: known for name in used if (known := same_name(name, names)) is not None}
    unknown = [name for name in used if name not in meant]
    if unknown:
        shown = ", ".join(f"{n or '(no name)'} ({used[n]} objects)" for n in sorted(unknown)[:8])
        hint = f"the classes are {', '.join(names[:20])}"
        raise InvalidValueError(f"{first[unknown[0]]}: unknown class", got=shown, hint=hint)
    for name, known in meant.items():
        if known != name:
            report.note(f"objects {name!r} are taken as class {known!r}", first[name], used[name])
    return {name: names.index(known) for name, known in meant.items()}


def _object_name(node: ElementTree.Element) -> str:
    return unicodedata.normalize("NFC", " ".join((node.findtext("name") or "").split()))


class _BadAnnotationError(Exception):
    pass


class _Reader:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.folders = Folders(report)

    def page(self, item: _Item) -> _Page | None:
        """One annotation; None if it or its picture cannot be used, which is counted."""
        kind, where = "annotations without a picture left out", str(item.xml)
        try:
            tree = self.tree(item.xml)
            path = self._picture(item, tree)
            if path is not None:
                return self._page(item, tree, path)
        except MissingFileError:
            kind = "pictures listed without an annotation left out"
        except CorruptFileError as error:
            kind, where = f"pictures left out: {error.what}", str(error.got)
        except _BadAnnotationError as error:
            kind, where = "pictures with a malformed annotation left out", str(error)
        self.report.add(kind, where)
        return None

    def tree(self, file: Path) -> ElementTree.Element:
        """The XML's root; raises MissingFileError, or CorruptFileError if it is not XML."""
        if not find.is_file(file):
            raise MissingFileError("no such annotation file", got=str(file))
        try:
            text = self._decode(read_bytes(file), file)
            # Entities can be made to grow without bound; annotations need none.
            if "<!ENTITY" in text:
                raise CorruptFileError("annotation declares entities in its DOCTYPE", got=str(file))
            parser = ElementTree.XMLParser()
            parser.feed(text.lstrip())
            tree = parser.close()
        except CorruptFileError:
            raise
        except (ElementTree.ParseError, LookupError, ValueError, RecursionError) as error:
            raise CorruptFileError("annotation is not XML", got=f"{file}: {error}") from error
        other = foreign.XML_FORMATS.get(str(tree.tag).rpartition("}")[2])
        if other is not None:
            raise CorruptFileError(f"it is {other.what}; {other.remedy}", got=str(file))
        for node in tree.iter():  # Namespaces and capitals are of no interest here.
            if isinstance(node.tag, str):
                node.tag = node.tag.rpartition("}")[2].lower()
        return tree

    def _decode(self, data: bytes, file: Path) -> str:
        """By the mark, by the declaration, as UTF-8, as Latin-1."""
        marked = marked_encoding(data)
        if marked is not None:
            return data.decode(marked)
        declared = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"']", data[:400])
        if declared:
            name = declared[1].decode("ascii")
            # Declared as UTF-16, saved as bytes: the declaration could not be read otherwise.
            if not codecs.lookup(name).name.startswith(("utf-16", "utf-32", "utf-8")):
                return data.decode(name)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self.report.note("annotations in no declared encoding read as Latin-1", str(file))
            return data.decode("latin-1")

    def _picture(self, item: _Item, tree: ElementTree.Element) -> Path | None:
        texts = [(tree.findtext(tag) or "").strip() for tag in ("filename", "path")]
        names = [PureWindowsPath(text).name for text in texts]  # Both kinds of slashes.
        find_file, find_picture = self.folders.find_file, self.folders.picture
        said = names[0]
        for folder in item.folders:
            same = Path(said).stem == item.stem and is_picture(folder / said)
            if same and (path := find_file(folder, said)):  # a.png beside an a.jpg.
                return path
            if path := find_picture(folder, item.stem):
                return path
        for name in filter(None, names):
            for folder in item.folders:
                if path := find_file(folder, name) or find_picture(folder, name):
                    return path
        return None

    def _page(self, item: _Item, tree: ElementTree.Element, path: Path) -> _Page:
        sides = []
        for tag in ("width", "height"):
            with suppress(_BadAnnotationError):
                side = _number(tree.findtext(f"size/{tag}"), tag)
                sides += [int(side)] if math.isfinite(side) and side >= 1 else []
        boxes, names, difficult = [], [], []
        for node in tree.iter("object"):
            box = _corners(node, item.xml)
            if box is None:
                self.report.add("objects without a box dropped", str(item.xml))
                continue
            boxes.append(box)
            names.append(_object_name(node))
            flag = (node.findtext("difficult") or "0").strip().lower()
            difficult.append(flag in ("1", "true", "yes"))
        draft = Draft(
            path=path,
            where=str(item.xml),
            image_id=0,
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            labels=[],
            size=(sides[0], sides[1]) if len(sides) == 2 else None,
            tolerance=1.0,  # Tools that count from 0 write a corner of 0.
            extras={"difficult": difficult},
        )
        return _Page(draft, names)


def _number(text: str | None, what: str) -> float:
    """A number, also with a decimal comma; raises _BadAnnotationError, which names ``what``."""
    try:
        return float((text or "").strip().replace(",", "."))
    except ValueError:
        shown = " ".join((text or "").split())[:40]
        raise _BadAnnotationError(f"{what} is not a number: {shown!r}") from None


def _corners(node: ElementTree.Element, file: Path) -> tuple[float, float, float, float] | None:
    """An object's box, 0-based; of a polygon its box; None if it has neither."""

    def numbers(parent: ElementTree.Element, *tags: str) -> list[float]:
        what = f"of <{parent.tag}>"
        return [_number(parent.findtext(tag), f"{file}: <{tag}> {what}") for tag in tags]

    box, rotated = node.find("bndbox"), node.find("robndbox")
    if box is not None:
        x1, y1, x2, y2 = numbers(box, "xmin", "ymin", "xmax", "ymax")
        return x1 - 1, y1 - 1, x2, y2
    if rotated is not None:
        # The axis-aligned box around roLabelImg's rotated one, whose angle is in radians.
        x, y, width, height, angle = numbers(rotated, "cx", "cy", "w", "h", "angle")
        if not math.isfinite(angle):
            return math.nan, math.nan, math.nan, math.nan
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
        return x - half_x, y - half_y, x + half_x, y + half_y
    xs: list[float] = []
    ys: list[float] = []
    for child in node.iterfind("polygon//*"):
        if isinstance(child.tag, str) and re.fullmatch(r"[xy]\d*", child.tag):
            value = _number(child.text, f"{file}: a point of <polygon>")
            (xs if child.tag[0] == "x" else ys).append(value)
    return (min(xs) - 1, min(ys) - 1, max(xs), max(ys)) if xs and ys else None


def splits_of(roots: list[Path]) -> list[str]:
    """The splits that do not overlap: train, val and test where they are, else the lists."""
    found: dict[str, None] = {}
    for root in roots:
        lists = _lists_folder(root)
        if lists is not None:
            have = _list_names(lists)
            if {"train", "val"} & set(have):
                have = [n for n in have if n != "trainval"]
        else:
            folders = {x.lower() for p in _xml_files(root) for x in p.relative_to(root).parts[:-1]}
            have = [s for s in SPLITS if folders & set(split_names(s))]
        found.update(dict.fromkeys(have))
    return list(found)
