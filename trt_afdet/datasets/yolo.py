"""YOLO: a text file of ``class x y w h`` lines (relative centre and size) per picture."""

from __future__ import annotations

import glob
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from trt_afdet.datasets.checks import Report, check_unique
from trt_afdet.datasets.drafts import Draft, Drafts
from trt_afdet.datasets.find import (
    Folders,
    exists,
    fold,
    is_file,
    is_hidden,
    is_picture,
    split_names,
    walk_files,
    walk_pictures,
)
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.support.text import import_yaml, read_text

#: Files of class names, without a YAML.
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt")
#: Text files beside labels that are not labels.
_NO_LABELS = {"classes.txt", "labels.txt", "names.txt", "readme.txt", "train.txt", "val.txt",
              "valid.txt", "test.txt", "readme.roboflow.txt", "readme.dataset.txt",
              "predefined_classes.txt", "notes.txt", "requirements.txt", "license.txt",
              "readme.roboflow.md"}  # fmt: skip
#: Values above this are not shares of a picture, but pixels.
_NO_SHARE = 2.0


def find_config(folder: Path) -> Path | None:
    """The YAML (or darknet's ``.data``) of a YOLO folder."""
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (folder / name).is_file():
            return folder / name
    for pattern in ("*.yaml", "*.yml", "*.data"):
        for file in sorted(folder.glob(pattern)):
            if not is_hidden(file.name) and _is_config(file):
                return file
    return None


def _is_config(file: Path) -> bool:
    try:
        raw = _load(file)
    except AfdetError:
        return False
    splits = [n for s in ("train", "val", "test") for n in split_names(s)]
    return isinstance(raw, dict) and "names" in raw and any(s in raw for s in splits)


def read_yolo(
    path: Path,
    split: str | None = None,
    class_names: tuple[str, ...] | None = None,
    *,
    need_labels: bool = True,
) -> Drafts:
    """Reads a data.yaml, or a folder of pictures with labels (and maybe a data.yaml).

    A picture without a text file has no objects; a dataset without any text file is an error.

    Args:
        path: The folder or the YAML.
        split: A key of the YAML, or a folder; ``train`` if None and there is one.
        class_names: Used where no file names the classes.
        need_labels: Whether it is an error if no text file belongs to the pictures.

    Raises:
        MissingFileError, CorruptFileError, InvalidValueError: With one line each.
    """
    config = path if path.is_file() else find_config(path)
    root = path.parent if path.is_file() else path
    report = Report()
    reader = _Reader(root, report)
    if config is not None:
        raw = _load(config)
        names = _names(raw, config)
        reader.keypoints = "kpt_shape" in raw
        pictures = _configured(raw, config, split, report, reader.folders)
    else:
        listed = _name_file(root)
        if listed is None and class_names is None:
            raise MissingFileError(
                "YOLO data needs class names",
                got=str(root),
                hint="write data.yaml, or classes.txt with one name a line",
            )
        names = listed or class_names or ()
        folder = _split_folder(root, split, reader.folders)
        pictures = walk_pictures(folder, report)
        if not pictures:
            raise MissingFileError("no pictures found", got=str(folder))
    drafts = reader.drafts(pictures, names, need_labels=need_labels)
    return Drafts(str(path), names, drafts, report)


# The configuration


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
        raise CorruptFileError(
            f"{config.name} has no 'names'", got=str(config), hint="list the class names in it"
        )
    if isinstance(raw["names"], str):  # A file of names, as darknet has it.
        file = config.parent / raw["names"]
        if not file.is_file():
            raise CorruptFileError(
                f"{config.name}'s 'names' must be a list",
                got=raw["names"][:40],
                hint="write names: [cat, dog]",
            )
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
            raise CorruptFileError(
                f"{config.name}'s class ids must be 0, 1, 2, ...", got=str(config), hint=hint
            )
        names = [by_id[i] for i in range(len(by_id))]
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise CorruptFileError(f"{config.name}'s 'names' must be a list", got=str(config))
    names = [" ".join(n.split()) for n in names]
    if not all(names):
        raise CorruptFileError(f"{config.name} has a class without a name", got=str(config))
    check_unique(names, "class name", config)
    count = raw.get("nc")
    if isinstance(count, str) and count.strip().isdecimal() and int(count) != len(names):
        raise CorruptFileError(
            f"{config.name} has {len(names)} names, its 'nc' says {count}", got=str(config)
        )
    return tuple(names)


def _name_file(root: Path) -> tuple[str, ...] | None:
    places = ("", "labels", "labels/train", "data", "train", "valid", "obj_train_data")
    for place in (root / name for name in places):
        for name in _NAME_FILES:
            if (place / name).is_file():
                return _listed_names(place / name)
    named = [p for p in sorted(root.glob("*.names")) if not is_hidden(p.name)]
    return _listed_names(named[0]) if named else None


def _listed_names(file: Path) -> tuple[str, ...]:
    names = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
    if not names:
        raise CorruptFileError("the file of class names is empty", got=str(file))
    check_unique(names, "class name", file)
    return names


def splits_of(path: Path) -> list[str]:
    """The splits of a YOLO dataset."""
    config = path if path.is_file() else find_config(path)
    found = []
    raw = _load(config) if config is not None else {}
    root = path.parent if path.is_file() else path
    for split in ("train", "val", "test"):
        in_config = any(_values(raw.get(name)) for name in split_names(split))
        if in_config or _folder_of(root, split, Folders()) is not None:
            found.append(split)
    return found


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
        if exists(folder) and folder.is_dir():
            return folder
    report.note(f"'path' is not there, the folder of {config.name} is taken", text)
    return home


def _configured(
    raw: Mapping[str, Any], config: Path, split: str | None, report: Report, folders: Folders
) -> list[Path]:
    """The pictures of a split that a YAML names."""
    base, home = _base(raw, config, report), config.parent
    wanted = split_names(split or "train")
    values = next((v for name in wanted if (v := _values(raw.get(name)))), [])
    if not values:
        folder = _folder_of(home, split or "train", folders)
        if folder is None:
            have = [n for s in ("train", "val", "test") for n in split_names(s) if raw.get(n)]
            raise InvalidValueError(
                f"{config} has no folder for split {split or 'train'!r}",
                hint=f"it has {', '.join(have) or 'none'}",
            )
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
                pictures += walk_pictures(found, report)
            elif is_picture(found):
                pictures.append(found)
            else:
                pictures += _from_list(found, base, home, report, folders)
    once = list(dict.fromkeys(pictures))
    report.note("pictures listed twice, taken once", str(config), len(pictures) - len(once))
    if not once:
        raise MissingFileError(
            "no pictures found", got=", ".join(looked), hint="; ".join(report.lines()) or None
        )
    return once


def _resolve(value: str, base: Path, home: Path, folders: Folders) -> list[Path] | None:
    """The pictures of a split's value: a folder, a list, a picture, or a pattern."""
    value = value.strip().replace("\\", "/")
    said = Path(value).expanduser()
    tries = [base / said, home / said, said]
    if value.startswith("../"):
        # Roboflow writes ../train/images for a folder beside the YAML.
        inner = value
        while inner.startswith("../"):
            inner = inner[3:]
        tries = [base / inner, home / inner, *tries]
    for path in tries:
        if exists(path):
            return [path]
        if glob.has_magic(value):
            found = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207
            if found:
                return found
    for place in (base, home):  # Other case, other accents.
        found_path = None if said.is_absolute() else folders.find(place, value)
        if found_path is not None:
            return [found_path]
    # Of another machine, or of an archive that was unpacked elsewhere: the last parts may be here.
    parts = [p for p in PurePosixPath(value).parts if p not in ("/", ".", "..")]
    splits = {n for s in ("train", "val", "test") for n in split_names(s)}
    for start in range(1, len(parts)):
        if parts[start - 1].lower() in splits:
            return None  # valid/images is not images.
        found_path = folders.find(base, "/".join(parts[start:]))
        if found_path is not None:
            return [found_path]
    return None


def _from_list(file: Path, base: Path, home: Path, report: Report, folders: Folders) -> list[Path]:
    found = []
    for line in read_text(file).splitlines():
        text = line.strip().strip("\"'").replace("\\", "/")
        if not text or text.startswith(("#", ";", "//")):
            continue
        places = (file.parent, base, home)
        # A comment may follow, and a name may hold a #.
        for said in dict.fromkeys((text, text.split(" #")[0].strip(), text.split("\t")[0].strip())):
            given = Path(said).expanduser()
            path = next((p / given for p in places if is_file(p / given)), None)
            if path is None:
                path = next((p for place in places if (p := folders.find_tail(place, said))), None)
            if path is not None:
                break
        if path is None:
            report.add("listed pictures that are missing", f"{file}: {text}")
        else:
            found.append(path)
    return found


def _folder_of(root: Path, split: str, folders: Folders) -> Path | None:
    """The folder of a split's pictures where no YAML names it."""
    for name in split_names(split):
        for text in (f"images/{name}", f"{name}/images", name):
            folder = folders.find(root, text)
            if folder is not None and folder.is_dir():
                return folder
    return None


def _split_folder(root: Path, split: str | None, folders: Folders) -> Path:
    return _folder_of(root, split or "train", folders) or folders.find(root, "images") or root


# Labels


@dataclass
class _Reader:
    root: Path
    report: Report
    folders: Folders = field(init=False)
    keypoints: bool = False
    #: Class ids out of range by id, with the first place.
    out_of_range: dict[float, str] = field(default_factory=dict)
    out_of_range_count: int = 0
    ids: Counter[int] = field(default_factory=Counter)
    unquoted: dict[Path, dict[str, list[str]]] = field(default_factory=dict)
    boxes: int = 0
    in_pixels: int = 0
    first_in_pixels: str = ""

    def __post_init__(self) -> None:
        self.folders = Folders(self.report)

    def drafts(
        self, pictures: list[Path], names: tuple[str, ...], *, need_labels: bool
    ) -> list[Draft]:
        """The pictures with their labels.

        Raises:
            MissingFileError: If no label file is found.
            InvalidValueError: If class ids or coordinates are invalid.
        """
        drafts, files, looked = [], set(), {}
        stems = self.folders.stems
        index = {name: i for i, name in enumerate(names)}
        for number, picture in enumerate(pictures, 1):
            places = self.label_places(picture)
            looked.update(dict.fromkeys(f for f, _ in places))
            file = next((p for f, n in places if (p := self.find_label(f, n)) is not None), None)
            if file is not None and file.stem != picture.stem:
                # a.txt is not A.jpg's where there is an a.jpg.
                taken = any(n != picture.name for n in stems(picture.parent).get(file.stem, []))
                file = None if taken else file
            rows: list[list[float]] = []
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
            table = np.array(rows, np.float64).reshape(-1, 5)
            half = table[:, 3:5] / 2
            drafts.append(
                Draft(
                    path=picture,
                    where=str(file or picture),
                    image_id=number,
                    boxes=np.concatenate([table[:, 1:3] - half, table[:, 1:3] + half], axis=1),
                    labels=[int(v) for v in table[:, 0]],
                    relative=True,
                )
            )
        if not files and need_labels:
            raise MissingFileError(
                f"no label file found for any of the {len(pictures)} pictures",
                got=str(pictures[0]),
                hint="looked in " + ", ".join(str(p) for p in list(looked)[:6]),
            )
        self._check(len(names))
        self._orphans(files)
        return drafts

    def _check(self, count: int) -> None:
        if self.out_of_range:
            known = {*self.ids, *(int(i) for i in self.out_of_range if float(i).is_integer())}
            hint = "do data.yaml and the labels belong together?"
            if known and min(known) >= 1 and max(known) <= count:
                hint = "the labels seem to count classes from 1; subtract 1 from each id"
            first = next(iter(self.out_of_range.values()))
            raise InvalidValueError(
                f"{first}: class id out of range 0..{count - 1}",
                got=f"{', '.join(f'{i:g}' for i in sorted(self.out_of_range)[:8])} in "
                f"{self.out_of_range_count} labels",
                hint=hint,
            )
        if self.in_pixels * 2 >= max(1, self.boxes):
            raise InvalidValueError(
                f"{self.first_in_pixels}: coordinates are in pixels",
                got=f"{self.in_pixels} of {self.boxes} labels",
                hint="YOLO's are shares from 0 to 1; divide x and w by the picture's width, y and "
                "h by its height",
            )

    def _orphans(self, files: set[Path]) -> None:
        """Label files without a picture, in the folders of these pictures."""
        for folder in sorted({f.parent for f in files}):
            stems = {f.stem for f in files if f.parent == folder}
            for names in self.folders.names(folder).values():
                for name in names:
                    path = folder / name
                    low = name.lower()
                    if not low.endswith(".txt") or low in _NO_LABELS or path in files:
                        continue
                    if path.stem not in stems and folder.name.lower() not in ("labels", "label"):
                        self.report.add("label files without a picture", str(path))

    def label_places(self, picture: Path) -> list[tuple[Path, str]]:
        """Where a picture's labels may be, first the usual place: folder and stem."""
        places: list[tuple[Path, str]] = []
        parts = picture.parts
        for index in range(len(parts) - 2, -1, -1):
            # YOLO's rule: the last "images" in the path becomes "labels".
            if re.fullmatch(r"images?|jpegimages|imgs?", parts[index], re.IGNORECASE):
                above, below = Path(*parts[:index]), "/".join(parts[index + 1 : -1])
                for name in ("labels", "label", "annotations"):
                    folder = self.folders.find(above, name)
                    if folder is not None:
                        inner = self.folders.find(folder, below) if below else folder
                        places += [(f, picture.stem) for f in (inner, folder) if f is not None]
                    elif name == "labels":
                        places.append((above / name / below, picture.stem))
                break
        places.append((picture.parent, picture.stem))
        for above in (picture.parent, picture.parent.parent):
            folder = self.folders.find(above, "labels")
            if folder is not None:
                inner = self.folders.find(folder, picture.parent.name)
                places += [(f, picture.stem) for f in (inner, folder) if f is not None]
        return list(dict.fromkeys(places))

    def quoted(self, folder: Path) -> dict[str, list[str]]:
        """Names of a folder without their URL quotes, as Label Studio writes some."""
        if folder not in self.unquoted:
            found: dict[str, list[str]] = {}
            for key, names in self.folders.names(folder).items():
                found.setdefault(unquote(key), []).extend(names)
            self.unquoted[folder] = found
        return self.unquoted[folder]

    def find_label(self, folder: Path, stem: str) -> Path | None:
        """``stem.txt`` in a folder, whatever its case; also where one name is URL-quoted."""
        names = self.folders.names(folder).get(f"{fold(stem)}.txt", [])
        if not names:
            names = self.quoted(folder).get(f"{unquote(fold(stem))}.txt", [])
        exact = [n for n in names if n[:-4] == stem]
        chosen = exact or (names if len(names) == 1 else [])
        if chosen and chosen[0].lower() not in _NO_LABELS - {f"{fold(stem)}.txt"}:
            path = folder / chosen[0]
            return path if path.is_file() else None
        return None

    def rows(self, file: Path, index: Mapping[str, int]) -> list[list[float]]:
        """``class x y w h`` of each line.

        Raises:
            CorruptFileError: At the first line that is not a label.
        """
        found: list[list[float]] = []
        known: set[tuple[float, ...]] = set()
        for number, line in enumerate(read_text(file).splitlines(), 1):
            where = f"{file}:{number}"
            words = line.replace(",", " ").replace(";", " ").split()
            if not words or words[0].startswith("#"):
                continue
            try:
                values = [float(v) for v in words[1:]]
                kind = float(words[0]) if words[0] not in index else float(index[words[0]])
            except ValueError:
                raise CorruptFileError(f"{where}: not numbers", got=line.strip()[:40]) from None
            box = self._box(values, where)
            if not kind.is_integer() or not 0 <= kind < len(index):
                self.out_of_range.setdefault(kind, where)
                self.out_of_range_count += 1
                continue
            self.ids[int(kind)] += 1
            self.boxes += 1
            if any(math.isfinite(v) and abs(v) > _NO_SHARE for v in box):
                self.in_pixels += 1
                self.first_in_pixels = self.first_in_pixels or where
                self.report.add("labels that are not shares of the picture dropped", where)
                continue
            row = [kind, *box]
            if tuple(row) in known:
                self.report.note("repeated labels, taken once", where)
                continue
            known.add(tuple(row))
            found.append(row)
        return found

    def _box(self, values: list[float], where: str) -> list[float]:
        """Centre and size from the numbers after the class."""
        if len(values) == 4:
            return values
        if len(values) == 5:
            self.report.note("labels with a sixth column (confidence), which is left out", where)
            return values[:4]
        if self.keypoints and len(values) > 5:
            return values[:4]
        if len(values) >= 6 and len(values) % 2 == 0:
            self.report.note("polygons, whose box is taken", where)
            xs, ys = values[0::2], values[1::2]
            # min() and max() pass over what is not finite; the check must see it.
            if not all(map(math.isfinite, values)):
                return [math.nan] * 4
            left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
            return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        raise CorruptFileError(
            f"{where}: expected 'class x y w h'", got=f"{len(values) + 1} values"
        )


def has_yolo_labels(root: Path) -> bool:
    """Whether a folder looks like YOLO: a configuration, labels, or class names with labels."""
    if find_config(root) is not None:
        return True
    folders = Folders()
    for name in ("labels", "train/labels", "obj_train_data"):
        if (folder := folders.find(root, name)) is not None and folder.is_dir():
            return True
    files = [p for p in walk_files(root, Report()) if p.name.lower() not in _NO_LABELS]
    stems = {(p.parent, p.stem) for p in files if is_picture(p)}
    return any(p.suffix.lower() == ".txt" and (p.parent, p.stem) in stems for p in files)
