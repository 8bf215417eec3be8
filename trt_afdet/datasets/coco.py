"""COCO: one instances JSON and a folder of pictures (or a video)."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from trt_afdet.datasets import foreign
from trt_afdet.datasets.checks import Report, check_unique
from trt_afdet.datasets.drafts import Draft, Drafts, label_score
from trt_afdet.datasets.find import Folders, is_hidden, split_names
from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.support.text import decode_text, read_bytes

Entry = dict[str, Any]


def find_files(root: Path) -> dict[str, Path]:
    """The COCO files of a folder by split; one that serves all is called ``all``."""
    found: dict[str, Path] = {}
    files = [f for f in sorted((root / "annotations").glob("*.json")) if not is_hidden(f.name)]
    keypoints = [f for f in files if f.stem.startswith("person_keypoints_")]
    others = [f for f in files if not f.stem.startswith(("captions_", "panoptic_"))]
    instances = [f for f in others if f not in keypoints]
    for file in instances or keypoints:  # Files of keypoints hold boxes as well.
        found.setdefault(_split_of(file), file)
    if found:
        return found
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name)):
        for name in ("_annotations.coco.json", "annotations.json", "result.json", "labels.json"):
            if (folder / name).is_file():
                found.setdefault(folder.name, folder / name)
    if (root / "_annotations.coco.json").is_file():
        found.setdefault("all", root / "_annotations.coco.json")
    for file in sorted(root.glob("*.json")):
        if not is_hidden(file.name) and file.name != "_annotations.coco.json" and _is_coco(file):
            only = file.stem in ("result", "annotations", "labels", "coco", "_annotations")
            found.setdefault("all" if only else file.stem.removeprefix("instances_"), file)
    return found


def _split_of(file: Path) -> str:
    return file.stem.removeprefix("instances_").removeprefix("person_keypoints_")


def _is_coco(file: Path) -> bool:
    try:
        raw = json.loads(decode_text(file.read_bytes(), file))
    except (AfdetError, OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and isinstance(raw.get("images"), list) and "categories" in raw


def choose_file(root: Path, split: str | None) -> Path:
    """The file of a split; errors name the splits there are."""
    found = find_files(root)
    names = ", ".join(found) or "none"
    if split is None:
        if len(found) != 1:
            what = f"{root} has {len(found)} splits ({names})"
            raise InvalidValueError(what, hint="name one: --split")
        return next(iter(found.values()))
    by_low = {name.lower(): file for name, file in found.items()}
    wanted = [name.lower() for name in split_names(split)]
    if exact := [by_low[name] for name in wanted if name in by_low]:
        return exact[0]
    for name in wanted:  # instances_train2017.json is the split "train".
        like = [f for n, f in by_low.items() if n.removeprefix(name).strip("_-.").isdigit()]
        if len(like) == 1:
            return like[0]
    raise MissingFileError(f"{root} has no split {split!r}", hint=f"it has {names}")


def read_coco(
    file: Path, images: Path | None = None, class_names: tuple[str, ...] | None = None
) -> Drafts:
    """Reads an instances JSON; errors name the entry that is wrong.

    Args:
        file: The JSON. An image with a ``frame_index`` is a frame of the video ``file_name``.
        images: Folder of the pictures; by default they are looked for in ``images/<split>``,
            ``<split>``, ``images`` and the JSON's own folder.
        class_names: Used where the file has no categories.
    """
    raw = _load(file)
    report = Report()
    names, ids, index = _categories(raw, file, class_names, report)
    _check_keys(raw, "images", ("id", "file_name"), file)
    keys = [_key(i["id"]) for i in raw["images"]]
    check_unique(keys, "image id", file)
    pictures = [(str(i["file_name"]), _hashable(i.get("frame_index"))) for i in raw["images"]]
    check_unique(pictures, "file name", file)
    by_image: dict[Any, list[Entry]] = {key: [] for key in keys}
    counts = Counter(_hashable(a["id"]) for a in raw["annotations"] if "id" in a)
    for number, annotation in enumerate(raw["annotations"]):
        where = f"{file.name}: annotations[{number}]"
        if "id" in annotation and counts[_hashable(annotation["id"])] > 1:
            report.note("annotations share an id with another", where)
        image_key, category = _key(annotation.get("image_id")), _key(annotation.get("category_id"))
        if image_key not in by_image:
            report.add("annotations of an unknown image dropped", f"{where}, image {image_key}")
        elif category not in index:
            report.add("annotations of an unknown category dropped", f"{where}, id {category}")
        else:
            by_image[image_key].append(annotation)
    places = _Places(file, images)
    whole = all(isinstance(k, int) and not isinstance(k, bool) for k in keys)
    drafts = []
    for number, (key, image) in enumerate(zip(keys, raw["images"], strict=True), 1):
        path = places.find(str(image["file_name"]))
        if path is None:
            report.add("pictures that are missing", str(image["file_name"]))
        else:
            image_id = key if whole else number
            drafts.append(_draft(image, by_image[key], path, image_id, index, report, file))
    if raw["images"] and not drafts:
        hint = "looked in " + ", ".join(str(p) for p in places.folders)
        got = str(raw["images"][0]["file_name"])
        raise MissingFileError(f"{file}: its pictures are not found", got=got, hint=hint)
    if not drafts:
        raise CorruptFileError(f"{file} holds no images")
    if len({d.frame_index is None for d in drafts}) > 1:
        raise CorruptFileError(f"{file}: some images are frames of a video, others are not")
    return Drafts(str(file), names, drafts, report, ids)


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise MissingFileError("no such annotation file", got=str(file))
    try:
        raw = json.loads(decode_text(read_bytes(file), file))
    except AfdetError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptFileError("annotations are not JSON", got=f"{file}: {error}") from error
    other = foreign.json_format(raw)
    if other is not None:
        raise CorruptFileError(f"{file} is {other.what}", hint=other.remedy)
    if not isinstance(raw, dict) or not isinstance(raw.get("images"), list):
        raise CorruptFileError(f"{file} is not a COCO instances file: it has no list 'images'")
    for section in ("images", "annotations", "categories"):
        if raw.get(section) is None:  # Files of test sets have no annotations.
            raw[section] = []
        if not isinstance(raw[section], list):
            what = f"{file} is not a COCO instances file: {section!r} is not a list"
            raise CorruptFileError(what, got=section)
        for number, entry in enumerate(raw[section]):
            if not isinstance(entry, dict):
                raise CorruptFileError(f"{file}: {section}[{number}] is not an object")
    return raw


def _check_keys(raw: dict[str, Any], section: str, keys: tuple[str, ...], file: Path) -> None:
    for number, entry in enumerate(raw[section]):
        for key in keys:
            if entry.get(key) is None or isinstance(entry[key], (dict, list)):
                raise CorruptFileError(f"{file}: {section}[{number}] has no {key!r}")


def _key(value: Any) -> Any:
    """An id: 7, "7" and 7.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isdecimal() and len(text) < 19 else text
    return _hashable(value)


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, (dict, list)) else value


def _categories(
    raw: dict[str, Any], file: Path, class_names: tuple[str, ...] | None, report: Report
) -> tuple[tuple[str, ...], tuple[int, ...], dict[Any, int]]:
    """Class names, category ids and the class index of each id."""
    entries = raw["categories"]
    _check_keys(raw, "categories", ("id", "name"), file)
    used = {_key(a.get("category_id")) for a in raw["annotations"]}
    roots = [e for e in entries if str(e.get("supercategory", "")).lower() == "none"]
    if len(roots) == 1 and len(entries) > 1 and _key(roots[0]["id"]) not in used:
        # Roboflow puts the project's name before the classes, as the category above them.
        others = [e for e in entries if e is not roots[0]]
        if all(e.get("supercategory") == roots[0]["name"] for e in others):
            report.note("category above the others left out", f"{file.name}: {roots[0]['name']}")
            entries = others
    if not entries:
        if raw["annotations"] or not class_names:
            raise CorruptFileError(f"{file} holds no categories")
        return tuple(class_names), tuple(range(1, len(class_names) + 1)), {}
    keys = [_key(e["id"]) for e in entries]
    check_unique(keys, "category id", file)
    whole = all(isinstance(k, int) for k in keys)
    order = sorted(range(len(keys)), key=lambda i: keys[i] if whole else str(keys[i]))
    names: list[str] = []
    ids: list[int] = []
    index: dict[Any, int] = {}
    for i in order:
        name = unicodedata.normalize("NFC", " ".join(str(entries[i]["name"]).split()))
        if name in names:
            report.note("categories share a name and are taken as one", f"{file.name}: {name}")
        else:
            names.append(name)
            ids.append(keys[i] if whole else len(names))
        index[keys[i]] = names.index(name)
    return tuple(names), tuple(ids), index


class _Places:
    """Where pictures may be; the folder that held the last one is tried first."""

    def __init__(self, file: Path, images: Path | None) -> None:
        here = file.parent
        root = here.parent if here.name.lower() == "annotations" else here
        self.names = Folders()
        folders = []
        for name in split_names(_split_of(file)):
            folders += [root / "images" / name, root / name, root / name / "images"]
        folders += [root / "images", here / "images", here, root, root / "JPEGImages"]
        self.folders = [images] if images is not None else list(dict.fromkeys(folders))

    def find(self, text: str) -> Path | None:
        """The file that a ``file_name`` means: also of Windows, of a server, of another folder."""
        for name in dict.fromkeys((text, _server_name(text))):
            clean = name.replace("\\", "/")
            for find in (self.names.find_file, self.names.find_tail):
                for folder in self.folders:
                    if path := find(folder, clean):
                        self.folders.remove(folder)
                        self.folders.insert(0, folder)
                        return path
        return None


def _server_name(text: str) -> str:
    """Label Studio's ``/data/local-files/?d=a/b.jpg`` and addresses of pictures."""
    with suppress(ValueError):
        if "?" in text or "%" in text or "://" in text:
            parts = urlsplit(text)
            return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    return text


def _number(value: Any) -> float:
    """A number, also as text; NaN for anything else."""
    with suppress(ValueError, OverflowError):
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    return math.nan


def _flag(value: Any) -> bool:
    number = _number(int(value) if isinstance(value, bool) else value)
    return math.isfinite(number) and number != 0


def _draft(
    image: Entry,
    annotations: list[Entry],
    path: Path,
    image_id: int,
    index: dict[Any, int],
    report: Report,
    file: Path,
) -> Draft:
    name = str(image["file_name"])
    sides = [_number(image.get(k)) for k in ("width", "height")]
    said = all(math.isfinite(s) and 1 <= s < 1 << 31 for s in sides)
    frame = image.get("frame_index")
    number = 0.0 if frame is None else _number(frame)
    if not (number >= 0 and number.is_integer()):
        raise CorruptFileError(f"{file}: frame_index of {name} is not a number from 0", got=frame)
    boxes, kept, areas = [], [], []
    for annotation in annotations:
        if (box := _box(annotation, report, name)) is not None:
            boxes.append(box)
            kept.append(annotation)
            area = _number(annotation.get("area"))
            of_box = max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
            areas.append(area if math.isfinite(area) and area > 0 else of_box)
    return Draft(
        path=path,
        where=name,
        image_id=image_id,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=[index[_key(a["category_id"])] for a in kept],
        size=(int(sides[0]), int(sides[1])) if said else None,
        frame_index=None if frame is None else int(number),
        extras={
            "crowd": [_flag(a.get("iscrowd", 0)) for a in kept],
            "difficult": [_flag(a.get("ignore", 0)) for a in kept],
            "area": areas,
            "scores": [label_score(_number(a.get("score"))) for a in kept],
            "segmentations": [a.get("segmentation") or None for a in kept],
        },
    )


def _box(annotation: Entry, report: Report, where: str) -> list[float] | None:
    """x1 y1 x2 y2, from the segmentation without a ``bbox``; None without either."""
    bbox = annotation.get("bbox")
    if isinstance(bbox, list) and bbox:
        if len(bbox) == 4:
            x, y, width, height = map(_number, bbox)
            return [x, y, x + width, y + height]
        report.add("annotations whose bbox is not x, y, width, height dropped", where)
        return None
    box = segmentation_box(annotation.get("segmentation"))
    if box is None:
        report.add("annotations without a box dropped", where)
        return None
    report.note("boxes taken from the segmentation", where)
    return box


def segmentation_box(mask: Any) -> list[float] | None:
    """The box of polygons or run lengths; None if they are neither."""
    if isinstance(mask, list):
        polygons = mask if mask and all(isinstance(p, list) for p in mask) else [mask]
        values = [[_number(v) for v in p] for p in polygons if isinstance(p, list)]
        xs = [v for p in values for v in p[0::2]]
        ys = [v for p in values for v in p[1::2]]
        if not xs or not ys or not all(map(math.isfinite, (*xs, *ys))):
            return None
        return [min(xs), min(ys), max(xs), max(ys)]
    if not isinstance(mask, dict):
        return None
    size, counts = mask.get("size"), mask.get("counts")
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list):
        return None
    lengths = [_number(c) for c in counts]
    height = _number(size[0])
    if not all(math.isfinite(c) and c >= 0 for c in lengths) or not height >= 1:
        return None
    xs, ys, start = [], [], 0
    for number, length in enumerate(map(int, lengths)):
        end = start + length
        if number % 2 and length:
            # Columns, one after the other; a run over two of them touches top and bottom.
            (first, top), (last, bottom) = divmod(start, int(height)), divmod(end - 1, int(height))
            xs += [first, last + 1]
            ys += [top, bottom + 1] if first == last else [0, int(height)]
        start = end
    return [float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))] if xs else None


def _run_lengths(text: str) -> list[int] | None:
    """COCO's compressed run lengths: 5 bits a character, differences to the last but one."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
