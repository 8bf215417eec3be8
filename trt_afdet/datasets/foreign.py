"""Recognises formats that cannot be read, so that the error can name them."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trt_afdet.datasets.checks import Report
from trt_afdet.datasets.find import is_picture, walk_files
from trt_afdet.errors import AfdetError
from trt_afdet.support.text import read_text

#: Of files that are looked into, and the most that are looked into.
_MOST_BYTES, _MOST_FILES = 1 << 20, 5

_EXPORT = "export it as COCO, Pascal VOC or YOLO"
_SAVE = "save its pictures and boxes as COCO or YOLO"
_TRUTH = "name the instances file of the same pictures"


class Format(NamedTuple):
    """A format that is not read: its name, with an article, and a hint for the user."""

    what: str
    remedy: str


_BY_SUFFIX = {
    **dict.fromkeys(
        (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"),
        Format("an archive", "unpack it and name the folder"),
    ),
    **dict.fromkeys((".tfrecord", ".record", ".tfrecords"), Format("a TFRecord file", _EXPORT)),
    ".parquet": Format("a Parquet file of Hugging Face", _SAVE),
    ".arrow": Format("an Arrow file of Hugging Face", _SAVE),
    ".jsonl": Format("a JSON-lines file (Hugging Face's metadata.jsonl?)", "write it as COCO"),
    ".ndjson": Format("a JSON-lines file", _EXPORT),
    ".csv": Format("a table (Open Images, TensorFlow or RetinaNet CSV?)", "convert it to COCO"),
}
#: Formats of XML other than VOC annotations, by the root.
XML_FORMATS = {
    "annotations": Format(
        "a CVAT for images file", "export from CVAT as COCO 1.0 or Pascal VOC 1.1"
    ),
    "dataset": Format("a dlib file", "convert it to COCO"),
}


def json_format(raw: Any) -> Format | None:
    """The format of a JSON other than COCO instances; None if unknown."""
    if isinstance(raw, list):
        first = raw[0] if raw else None
        if not isinstance(first, dict):
            return None
        if "image_id" in first and ("bbox" in first or "segmentation" in first):
            what = "a COCO results file (a list of detections)"
            return Format(what, "name the instances file, the truth")
        if "image" in first and isinstance(first.get("annotations"), list):
            return Format("a CreateML file", _EXPORT)
        if "data" in first and ("annotations" in first or "completions" in first):
            return Format("a Label Studio task list", "export it as COCO or YOLO")
        if "labels" in first and "name" in first:
            return Format("a BDD100K or Scalabel file", "convert it to COCO")
        return None
    if not isinstance(raw, dict):
        return None
    if "shapes" in raw and "imagePath" in raw:
        return Format("a labelme file", "convert the folder with labelme2coco")
    if "_via_img_metadata" in raw or any(
        isinstance(v, dict) and "regions" in v and "filename" in v for v in list(raw.values())[:3]
    ):
        return Format("a VIA project", "export it as COCO")
    if "size" in raw and isinstance(raw.get("objects"), list):
        return Format("a Supervisely annotation", _EXPORT)
    sample = raw["annotations"][:20] if isinstance(raw.get("annotations"), list) else []
    sample = [a for a in sample if isinstance(a, dict) and "bbox" not in a]
    if any("segments_info" in a for a in sample):
        return Format("a COCO panoptic file", _TRUTH)
    if any("caption" in a for a in sample):
        return Format("a COCO captions file", _TRUTH)
    return None


def file_format(file: Path) -> Format | None:
    """The format of a file that is not a dataset; None if unknown."""
    suffix = file.suffix.lower()
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if suffix in (".xml", ".txt") or is_picture(file):
        return Format("one file of a dataset", f"name the folder, {file.parent}")
    with suppress(AfdetError, OSError, ValueError, RecursionError):
        if suffix == ".json" and file.stat().st_size <= _MOST_BYTES:
            return json_format(json.loads(read_text(file)))
    return None


def folder_format(root: Path) -> Format:
    """The likely reason why a folder is not a dataset."""
    report = Report()
    files = list(walk_files(root, report))
    if not files:
        return Format("an empty folder", "; ".join(report.lines()) or "is it the right one?")
    if any((f / "label_2").is_dir() for f in (root, root / "training")):
        return Format("KITTI's layout", "convert it to YOLO or COCO")
    pictures = [p for p in files if is_picture(p)]
    others = [p for p in files if not is_picture(p)]
    looked: Counter[str] = Counter()
    for file in others:
        suffix = file.suffix.lower()
        looked[suffix] += 1
        if suffix in (".txt", ".xml") or looked[suffix] > _MOST_FILES:
            continue
        if found := file_format(file):
            name = file.relative_to(root)
            return Format(f"a folder that holds {found.what}: {name}", found.remedy)
    if pictures and not others:
        folders = sorted({p.parent.name for p in pictures if p.parent != root})
        more = f", in the folders {', '.join(folders[:5])}" if folders else ""
        what = f"{len(pictures)} pictures without annotations{more}"
        return Format(what, "boxes are needed: COCO, Pascal VOC or YOLO")
    return Format(
        "none of the formats that are read",
        "looked for annotations/instances_<split>.json, <split>/_annotations.coco.json or "
        "result.json (COCO), ImageSets/Main or .xml files (VOC), data.yaml, labels or .txt files "
        "beside pictures (YOLO)",
    )
