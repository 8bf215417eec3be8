"""YOLO: a text file of ``class x y w h`` lines (relative centre and size) per picture."""

from __future__ import annotations

import glob
import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from trt_afdet.datasets import find
from trt_afdet.datasets.checks import Report, check_unique
from trt_afdet.datasets.drafts import Draft, Drafts, label_score
from trt_afdet.datasets.find import SPLIT_NAMES, SPLITS, Folders, is_hidden, is_picture, split_names
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.support.text import import_yaml, read_text

#: Files of class names, without a YAML.
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt")
#: Text files beside labels that are not labels.
_NO_LABELS = {"classes.txt", "labels.txt", "names.txt", "readme.txt", "train.txt", "val.txt",
              "valid.txt", "test.txt", "readme.roboflow.txt", "readme.dataset.txt",
              "predefined_classes.txt", "notes.txt", "requirements.txt", "license.txt",
              "readme.roboflow.md"}  # fmt: skip
_NO_SHARE = 2.0  # Values above this are not shares of a picture, but pixels.


def find_config(folder: Path) -> Path | None:
    """The YAML (or darknet's ``.data``) of a YOLO folder."""
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (folder / name).is_file():
            return folder / name
    others = [f for kind in ("*.yaml", "*.yml", "*.data") for f in sorted(folder.glob(kind))]
    return next((f for f in others if not is_hidden(f.name) and _is_config(f)), None)


def _is_config(file: Path) -> bool:
    try:
        return not SPLIT_NAMES.isdisjoint(_load(file))
    except AfdetError:
        return False


def read_yolo(
    path: Path, split: str | None, class_names: tuple[str, ...] | None, *, need_labels: bool
) -> Drafts:
    """Reads a data.yaml, or a folder of pictures with labels (and maybe a data.yaml).

    A picture without a text file has no objects; a dataset without any text file is an error.

    Args:
        path: The folder or the YAML.
        split: A key of the YAML, or a folder; ``train`` if None.
        class_names: Used where no file names the classes.
        need_labels: Whether it is an error if no text file belongs to the pictures.
    """
    config = path if path.is_file() else find_config(path)
    report = Report()
    reader = _Reader(report)
    if config is not None:
        raw = _load(config)
        names = _names(raw, config)
        reader.keypoints = "kpt_shape" in raw
        pictures = _configured(raw, config, split or "train", report, reader.folders)
    else:
        names = _name_file(path) or class_names or ()
        if not names:
            hint = "write data.yaml, or classes.txt with one name a line"
            raise MissingFileError("YOLO data needs class names", got=str(path), hint=hint)
        folders = reader.folders
        folder = _folder_of(path, split or "train", folders) or folders.find(path, "images") or path
        pictures = find.walk_pictures(folder, report)
        if not pictures:
            raise MissingFileError("no pictures found", got=str(folder))
    drafts = reader.drafts(pictures, names, need_labels=need_labels)
    return Drafts(str(path), names, drafts, report)


def _load(config: Path) -> dict[str, Any]:
    """A YAML with every value as text, or darknet's ``key = value`` lines."""
    text = read_text(config)
    if config.suffix.lower() == ".data":
        lines = [line.split("#")[0] for line in text.splitlines()]
        pairs = [line.partition("=") for line in lines if "=" in line]
        raw: Any = {key.strip(): value.strip() for key, _, value in pairs}
        file = config.parent / str(raw.get("names", ""))
        file = file if file.is_file() else config.parent / file.name
        if not file.is_file():
            raise MissingFileError("no such file of class names", got=str(file))
        raw.setdefault("nc", raw.get("classes"))
        return {**raw, "names": _listed_names(file)}
    yaml = import_yaml()

    class Loader(yaml.BaseLoader):  # type: ignore[name-defined,misc]
        """Refuses a repeated key, whose first value would be lost."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            check_unique(keys, "key", config)
            return super().construct_mapping(node, deep)

    try:
        # Nothing is guessed from a word: a class may be called no, 1e5 or null.
        raw = yaml.load(text, Loader=Loader)
    except CorruptFileError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise CorruptFileError(f"not YAML{_why(text, error)}", got=str(config)) from error
    if not isinstance(raw, dict) or not raw.get("names"):
        hint = "list the class names in it"
        raise CorruptFileError(f"{config.name} has no 'names'", got=str(config), hint=hint)
    if isinstance(raw["names"], str):  # A file of names, as darknet has it.
        file = config.parent / raw["names"]
        if not file.is_file():
            what, hint = f"{config.name}'s 'names' must be a list", "write names: [cat, dog]"
            raise CorruptFileError(what, got=raw["names"][:40], hint=hint)
        raw["names"] = list(_listed_names(file))
    return raw


def _why(text: str, error: Exception) -> str:
    """Where a YAML is wrong, and the two usual reasons."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ""
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    why = str(getattr(error, "problem", "") or "")
    if "\t" in line:
        why = "a tab; YAML is indented with blanks"
    elif "\\" in line:
        why = "a backslash in double quotes; write paths with /"
    return f", line {mark.line + 1}: {why}"


def _names(raw: Mapping[str, Any], config: Path) -> tuple[str, ...]:
    names = raw["names"]
    if isinstance(names, dict):
        try:
            by_id = {int(key): value for key, value in names.items()}
        except (TypeError, ValueError):
            by_id = {}
        if len(by_id) != len(names) or set(by_id) != set(range(len(names))):
            hint = "they begin at 1" if set(by_id) == set(range(1, len(names) + 1)) else None
            what = f"{config.name}'s class ids must be 0, 1, 2, ..."
            raise CorruptFileError(what, got=str(config), hint=hint)
        names = [by_id[i] for i in range(len(by_id))]
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise CorruptFileError(f"{config.name}'s 'names' must be a list", got=str(config))
    names = [" ".join(n.split()) for n in names]
    if not all(names):
        raise CorruptFileError(f"{config.name} has a class without a name", got=str(config))
    check_unique(names, "class name", config)
    count = raw.get("nc")
    if isinstance(count, str) and count.strip().isdecimal() and int(count) != len(names):
        what = f"{config.name} has {len(names)} names, its 'nc' says {count}"
        raise CorruptFileError(what, got=str(config))
    return tuple(names)


def _name_file(root: Path) -> tuple[str, ...] | None:
    places = ("", "labels", "labels/train", "data", "train", "valid", "obj_train_data")
    files = [root / place / name for place in places for name in _NAME_FILES]
    files += [p for p in sorted(root.glob("*.names")) if not is_hidden(p.name)]
    return next((_listed_names(file) for file in files if file.is_file()), None)


def _listed_names(file: Path) -> tuple[str, ...]:
    names = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
    if not names:
        raise CorruptFileError("the file of class names is empty", got=str(file))
    check_unique(names, "class name", file)
    return names


def splits_of(path: Path) -> list[str]:
    """The splits of a YOLO dataset."""
    config = path if path.is_file() else find_config(path)
    raw = _load(config) if config is not None else {}
    root = path.parent if path.is_file() else path
    return [
        split
        for split in SPLITS
        if any(_values(raw.get(name)) for name in split_names(split))
        or _folder_of(root, split, Folders()) is not None
    ]


def _values(value: Any) -> list[str]:
    """A string, or the strings of a list; nothing where YAML has null."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str) and v.strip() not in ("", "~", "null")]


def _base(raw: Mapping[str, Any], config: Path, report: Report) -> Path:
    """The folder that ``path:`` means; the YAML's own where that is not there."""
    home = config.parent
    text = next(iter(_values(raw.get("path"))), "").strip().replace("\\", "/")
    if not text:
        return home
    said = Path(text).expanduser()
    # The last are where Ultralytics' own downloads go.
    places = (home / said, home / text.lstrip("./"), said, home / "datasets" / said)
    for folder in (*places, Path("datasets") / said):
        if find.exists(folder) and folder.is_dir():
            return folder
    report.note(f"'path' is not there, the folder of {config.name} is taken", text)
    return home


def _configured(
    raw: Mapping[str, Any], config: Path, split: str, report: Report, folders: Folders
) -> list[Path]:
    """The pictures of a split that a YAML names."""
    base, home = _base(raw, config, report), config.parent
    values = next((v for name in split_names(split) if (v := _values(raw.get(name)))), [])
    if not values:
        folder = _folder_of(home, split, folders)
        if folder is None:
            have = [n for s in SPLITS for n in split_names(s) if raw.get(n)]
            what = f"{config} has no folder for split {split!r}"
            raise InvalidValueError(what, hint=f"it has {', '.join(have) or 'none'}")
        report.note(f"split is not in {config.name}, its folder is taken", str(folder))
        values = [str(folder.absolute())]
    pictures: list[Path] = []
    looked: list[str] = []
    for value in values:
        place = _resolve(value, base, home, folders)
        if place is None:
            hint = f"looked in {base}" + ("" if base == home else f" and {home}")
            if "download" in raw:
                hint += "; its 'download' is not run, fetch the data first"
            raise MissingFileError("no such folder of pictures", got=repr(value), hint=hint)
        for found in place:
            looked.append(str(found))
            if found.is_dir():
                pictures += find.walk_pictures(found, report)
            elif is_picture(found):
                pictures.append(found)
            else:
                pictures += _from_list(found, base, home, report, folders)
    once = list(dict.fromkeys(pictures))
    report.note("pictures listed twice, taken once", str(config), len(pictures) - len(once))
    if not once:
        lines = "; ".join(report.lines())
        raise MissingFileError("no pictures found", got=", ".join(looked), hint=lines or None)
    return once


def _resolve(value: str, base: Path, home: Path, folders: Folders) -> list[Path] | None:
    """The pictures of a split's value: a folder, a list, a picture, or a pattern."""
    value = value.strip().replace("\\", "/")
    said = Path(value).expanduser()
    tries = [base / said, home / said, said]
    if value.startswith("../"):
        # Roboflow writes ../train/images for a folder beside the YAML.
        inner = re.sub(r"^(\.\./)+", "", value)
        tries = [base / inner, home / inner, *tries]
    for path in tries:
        if find.exists(path):
            return [path]
        if glob.has_magic(value):
            found = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
            if found:
                return found
    found_path = None
    if not said.is_absolute():  # Other case, other accents.
        found_path = find.first(folders.find(place, value) for place in (base, home))
    # Of another machine, or of an archive that was unpacked elsewhere: the last parts may be here.
    parts = [p for p in PurePosixPath(value).parts if p not in ("/", ".", "..")]
    for start in range(1, len(parts)):
        if found_path is not None or parts[start - 1].lower() in SPLIT_NAMES:
            break  # valid/images is not images.
        found_path = folders.find(base, "/".join(parts[start:]))
    return [found_path] if found_path is not None else None


def _from_list(file: Path, base: Path, home: Path, report: Report, folders: Folders) -> list[Path]:
    found = []
    places = (file.parent, base, home)

    def found_as(said: str) -> Path | None:
        given = Path(said).expanduser()
        direct = next((p / given for p in places if find.is_file(p / given)), None)
        return direct or find.first(folders.find_tail(p, said) for p in places)

    for line in read_text(file).splitlines():
        text = line.strip().strip("\"'").replace("\\", "/")
        if not text or text.startswith(("#", ";", "//")):
            continue
        # A comment may follow, and a name may hold a #.
        meant = dict.fromkeys((text, text.split(" #")[0].strip(), text.split("\t")[0].strip()))
        path = find.first(map(found_as, meant))
        if path is None:
            report.add("listed pictures that are missing", f"{file}: {text}")
        else:
            found.append(path)
    return found


def _folder_of(root: Path, split: str, folders: Folders) -> Path | None:
    """The folder of a split's pictures where no YAML names it."""
    names = [t for n in split_names(split) for t in (f"images/{n}", f"{n}/images", n)]
    return find.first(folders.find_folder(root, name) for name in names)


class _Reader:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.folders = Folders(report)
        self.keypoints = False
        self.ids: Counter[int] = Counter()
        self.out_of_range: list[tuple[float, str]] = []  # Class ids and their places.
        self.in_pixels: list[str] = []  # Places of such labels.
        self.unquoted = cache(self._unquoted)

    def drafts(
        self, pictures: list[Path], names: tuple[str, ...], *, need_labels: bool
    ) -> list[Draft]:
        """The pictures with their labels."""
        drafts: list[Draft] = []
        files: set[Path] = set()
        looked: dict[Path, None] = {}
        index = {name: i for i, name in enumerate(names)}
        for number, picture in enumerate(pictures, 1):
            places = self.label_places(picture)
            looked.update(dict.fromkeys(places))
            file = find.first(self.find_label(place, picture.stem) for place in places)
            if file is not None and file.stem != picture.stem:
                # a.txt is not A.jpg's where there is an a.jpg.
                same = self.folders.stems(picture.parent).get(file.stem, [])
                file = None if any(n != picture.name for n in same) else file
            rows: list[tuple[float, ...]] = []
            if file is None:
                self.report.note("pictures without a label file, taken as background", str(picture))
            else:
                if file in files:
                    self.report.note("pictures share a label file with another", str(picture))
                files.add(file)
                try:
                    rows = self.rows(file, index)
                except CorruptFileError as error:
                    self.report.add("pictures with malformed labels left out", str(error))
                    continue
            table = np.array(rows, np.float64).reshape(-1, 6)
            half = table[:, 3:5] / 2
            boxes = np.concatenate([table[:, 1:3] - half, table[:, 1:3] + half], axis=1)
            labels = [int(v) for v in table[:, 0]]
            extras = {"scores": table[:, 5].tolist()}
            where = str(file or picture)
            drafts.append(
                Draft(picture, where, number, boxes, labels, relative=True, extras=extras)
            )
        if not files and need_labels:
            what = f"no label file found for any of the {len(pictures)} pictures"
            hint = "looked in " + ", ".join(str(p) for p in list(looked)[:6])
            raise MissingFileError(what, got=str(pictures[0]), hint=hint)
        self._check(len(names))
        self._orphans(files)
        return drafts

    def _check(self, count: int) -> None:
        if self.out_of_range:
            ids = sorted({i for i, _ in self.out_of_range})
            known = {*self.ids, *(int(i) for i in ids if i.is_integer())}
            hint = "do data.yaml and the labels belong together?"
            if known and min(known) >= 1 and max(known) <= count:
                hint = "the labels seem to count classes from 1; subtract 1 from each id"
            what = f"{self.out_of_range[0][1]}: class id out of range 0..{count - 1}"
            shown = ", ".join(f"{i:g}" for i in ids[:8])
            got = f"{shown} in {len(self.out_of_range)} labels"
            raise InvalidValueError(what, got=got, hint=hint)
        boxes = self.ids.total()
        if len(self.in_pixels) * 2 >= max(1, boxes):
            got = f"{len(self.in_pixels)} of {boxes} labels"
            divide = "divide x and w by the picture's width, y and h by its height"
            hint = f"YOLO's are shares from 0 to 1; {divide}"
            what = f"{self.in_pixels[0]}: coordinates are in pixels"
            raise InvalidValueError(what, got=got, hint=hint)

    def _orphans(self, files: set[Path]) -> None:
        """Label files without a picture, in the folders of these pictures."""
        for folder in sorted({f.parent for f in files}):
            if folder.name.lower() in ("labels", "label"):
                continue
            stems = {f.stem for f in files if f.parent == folder}
            for name in chain.from_iterable(self.folders.names(folder).values()):
                path = folder / name
                low = name.lower()
                if low.endswith(".txt") and low not in _NO_LABELS and path.stem not in stems:
                    self.report.add("label files without a picture", str(path))

    def label_places(self, picture: Path) -> list[Path]:
        """Folders where a picture's labels may be, first the usual one."""
        places: list[Path | None] = []
        parts = picture.parts
        for index in range(len(parts) - 2, -1, -1):
            # YOLO's rule: the last "images" in the path becomes "labels".
            if re.fullmatch(r"images?|jpegimages|imgs?", parts[index], re.IGNORECASE):
                above, below = Path(*parts[:index]), "/".join(parts[index + 1 : -1])
                for name in ("labels", "label", "annotations"):
                    folder = self.folders.find(above, name)
                    if folder is not None:
                        places += [self.folders.find(folder, below) if below else folder, folder]
                    elif name == "labels":
                        places.append(above / name / below)
                break
        places.append(picture.parent)
        for above in (picture.parent, picture.parent.parent):
            folder = self.folders.find(above, "labels")
            if folder is not None:
                places += [self.folders.find(folder, picture.parent.name), folder]
        return [place for place in dict.fromkeys(places) if place is not None]

    def _unquoted(self, folder: Path) -> dict[str, list[str]]:
        """Names of a folder without their URL quotes, as Label Studio writes some."""
        found: dict[str, list[str]] = {}
        for key, names in self.folders.names(folder).items():
            found.setdefault(unquote(key), []).extend(names)
        return found

    def find_label(self, folder: Path, stem: str) -> Path | None:
        """``stem.txt`` in a folder, whatever its case; also where one name is URL-quoted."""
        names = self.folders.names(folder).get(f"{find.fold(stem)}.txt", [])
        names = names or self.unquoted(folder).get(f"{unquote(find.fold(stem))}.txt", [])
        chosen = [n for n in names if n[:-4] == stem] or (names if len(names) == 1 else [])
        if chosen and chosen[0].lower() not in _NO_LABELS - {f"{find.fold(stem)}.txt"}:
            path = folder / chosen[0]
            return path if path.is_file() else None
        return None

    def rows(self, file: Path, index: Mapping[str, int]) -> list[tuple[float, ...]]:
        """``class x y w h score`` of each line.

        Raises CorruptFileError at the first that is no label.
        """
        found: dict[tuple[float, ...], float] = {}  # The scores of different rows.
        for number, line in enumerate(read_text(file).splitlines(), 1):
            where = f"{file}:{number}"
            words = line.replace(",", " ").replace(";", " ").split()
            if not words or words[0].startswith("#"):
                continue
            try:
                values = [float(v) for v in words[1:]]
                kind = float(index.get(words[0], words[0]))
            except ValueError:
                raise CorruptFileError(f"{where}: not numbers", got=line.strip()[:40]) from None
            box = self._box(values, where)
            if not kind.is_integer() or not 0 <= kind < len(index):
                self.out_of_range.append((kind, where))
                continue
            self.ids[int(kind)] += 1
            row = (kind, *box)
            if any(math.isfinite(v) and abs(v) > _NO_SHARE for v in box):
                self.in_pixels.append(where)
                self.report.add("labels that are not shares of the picture dropped", where)
            elif row in found:
                self.report.note("repeated labels, taken once", where)
            else:
                found[row] = label_score(values[4]) if len(values) == 5 else 1.0
        return [(*row, score) for row, score in found.items()]

    def _box(self, values: list[float], where: str) -> list[float]:
        """Centre and size from the numbers after the class."""
        if len(values) == 5:
            self.report.note("labels with a sixth column, taken as their score", where)
        if len(values) in (4, 5) or (self.keypoints and len(values) > 5):
            return values[:4]
        if len(values) >= 6 and len(values) % 2 == 0:
            self.report.note("polygons, whose box is taken", where)
            xs, ys = values[0::2], values[1::2]
            # min() and max() pass over what is not finite; the check must see it.
            if not all(map(math.isfinite, values)):
                return [math.nan] * 4
            left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
            return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        got = f"{len(values) + 1} values"
        raise CorruptFileError(f"{where}: expected 'class x y w h'", got=got)


def has_yolo_labels(root: Path) -> bool:
    """Whether a folder without a configuration holds labels, or pictures with text files."""
    folders = Folders()
    if any(folders.find_folder(root, n) for n in ("labels", "train/labels", "obj_train_data")):
        return True
    files = [p for p in find.walk_files(root, Report()) if p.name.lower() not in _NO_LABELS]
    stems = {(p.parent, p.stem) for p in files if is_picture(p)}
    return any(p.suffix.lower() == ".txt" and (p.parent, p.stem) in stems for p in files)
