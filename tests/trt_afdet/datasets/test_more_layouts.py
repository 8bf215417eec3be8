"""Exports of other tools, and odd names and files: read right, or refused in one line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trt_afdet.dataset_makers import HEIGHT, WIDTH, voc_object, voc_xml
from trt_afdet.datasets import open_dataset
from trt_afdet.datasets.coco import segmentation_box
from trt_afdet.datasets.convert import open_all
from trt_afdet.errors import AfdetError, CorruptFileError
from trt_afdet.support.text import read_text

LABEL = "1 0.5 0.5 0.25 0.5\n"
BOX = [24, 12, 40, 36]
OBJECT = voc_object("dog", (25, 13, 40, 36))
NAMES = "cat\ndog\n"
YAML = "train: images/train\nnames: [cat, dog]\n"
NFC = unicodedata.normalize("NFC", "é-ü")
NFD = unicodedata.normalize("NFD", "é-ü")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def lay(root: Path, files: dict[str, Any]) -> None:
    """Writes files: a picture for None, JSON for what is not text."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            kind = "PNG" if path.suffix == ".png" else "JPEG"
            Image.new("RGB", (WIDTH, HEIGHT)).save(path, kind)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")


def coco(file_name: str = "a.jpg") -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": file_name, "width": WIDTH, "height": HEIGHT}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [24, 12, 16, 24], "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }


def darknet(**keys: str) -> str:
    return "# darknet\n" + "".join(f" {key} = {value} \n" for key, value in keys.items())


def rotated(angle: float) -> str:
    sides = f"<cx>32</cx><cy>24</cy><w>16</w><h>24</h><angle>{angle}</angle>"
    return f"<object><name>dog</name><robndbox>{sides}</robndbox></object>"


READ: dict[str, dict[str, Any]] = {
    "CVAT's YOLO 1.1": {
        "obj_train_data/a.jpg": None,
        "obj_train_data/a.txt": LABEL,
        "obj.names": NAMES,
        "obj.data": darknet(classes="2", train="data/train.txt", names="data/obj.names"),
        "train.txt": "data/obj_train_data/a.jpg\n",
    },
    "Roboflow's Darknet": {
        "train/a.jpg": None,
        "train/a.txt": LABEL,
        "train/_darknet.labels": NAMES,
        "README.roboflow.txt": "x",
    },
    "Label Studio, quoted": {
        "images/a b%20c.jpg": None,
        "labels/a%20b%20c.txt": LABEL,
        "classes.txt": NAMES,
        "notes.json": {"categories": []},
    },
    "Label Studio, unquoted": {
        "images/a%20b.jpg": None,
        "labels/a b.txt": LABEL,
        "classes.txt": NAMES,
    },
    "names in a file": {
        "images/train/a.jpg": None,
        "labels/train/a.txt": LABEL,
        "data.yaml": "train: images/train\nnames: c.txt\n",
        "c.txt": NAMES,
    },
    "a Windows path": {
        "images/train/a.jpg": None,
        "labels/train/a.txt": LABEL,
        "data.yaml": "train: C:\\Users\\me\\set\\images\\train\nnames: ['cat ', dog]\n",
    },
    "Ultralytics' datasets folder": {
        "datasets/coco8/images/train/a.jpg": None,
        "datasets/coco8/labels/train/a.txt": LABEL,
        "coco8.yaml": "path: coco8\ntrain: images/train\nnames: [cat, dog]\n",
    },
    "comments in a list": {
        "images/train/a.jpg": None,
        "labels/train/a.txt": LABEL,
        "data.yaml": "train: l.txt\nnames: [cat, dog]\n",
        "l.txt": "# list\n\n;no\n// no\nimages/train/a.jpg   # best  \n \t \n",
    },
    "label in NFC": {
        f"images/train/{NFD}.jpg": None,
        f"labels/train/{NFC}.txt": LABEL,
        "data.yaml": YAML,
    },
    "list in NFC": {
        f"images/train/{NFD}.jpg": None,
        f"labels/train/{NFD}.txt": LABEL,
        "data.yaml": "train: l.txt\nnames: [cat, dog]\n",
        "l.txt": f"images/train/{NFC}.jpg\n",
    },
    "folder in NFC": {
        f"{NFD}/train/a.jpg": None,
        f"{NFD}/train/a.txt": LABEL,
        "data.yaml": f"train: {NFC}/train\nnames: [cat, dog]\n",
    },
    "COCO in NFC": {f"{NFD}.jpg": None, "_annotations.coco.json": coco(f"{NFC}.jpg")},
    "COCO in NFD": {f"{NFC}.jpg": None, "_annotations.coco.json": coco(f"{NFD}.jpg")},
    "VOC in NFC": {f"JPEGImages/{NFD}.jpg": None, f"Annotations/{NFC}.xml": voc_xml(OBJECT)},
    "VOC list in NFC": {
        f"JPEGImages/{NFD}.jpg": None,
        f"Annotations/{NFD}.xml": voc_xml(OBJECT),
        "ImageSets/Main/train.txt": f"{NFC}\n",
    },
    "VOC, turned box": {"a.jpg": None, "a.xml": voc_xml(rotated(math.pi))},
    "VOC, tags in capitals": {
        "a.jpg": None,
        "a.xml": "\n <?xml version='1.0'?>" + voc_xml(OBJECT.replace("object>", "Object>")),
    },
    "VOC, comment in a list": {
        "JPEGImages/a.jpg": None,
        "Annotations/a.xml": voc_xml(OBJECT),
        "ImageSets/Main/train.txt": "# c\n\n  a  \n",
    },
    "VOC, folders below": {
        "JPEGImages/s/a.jpg": None,
        "Annotations/s/a.xml": voc_xml(OBJECT),
    },
    "keypoints only": {
        "train2017/a.jpg": None,
        "annotations/person_keypoints_train2017.json": coco(),
        "annotations/captions_train2017.json": {},
    },
}


@pytest.mark.parametrize("kind", list(READ))
def test_layouts_that_are_read(tmp_path: Path, kind: str) -> None:
    lay(tmp_path, READ[kind])
    (data,) = open_all(tmp_path).values()
    (record,) = data.records
    np.testing.assert_allclose(record.boxes, [BOX], atol=1e-4)
    assert data.class_names[record.labels[0]] == "dog"
    assert data.report.faults == []


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty": ({}, "", "an empty folder"),
    "pictures only": ({"a.jpg": None, "b/c.jpg": None}, "", "2 pictures without annotations"),
    "zip": ({"a.zip": b"PK"}, "", "an archive.*unpack"),
    "zip file": ({"a.zip": b"PK"}, "a.zip", "an archive.*unpack"),
    "tar": ({"a.tar.gz": b""}, "a.tar.gz", "an archive"),
    "labelme": (
        {"a.jpg": None, "a.json": {"shapes": [], "imagePath": "a.jpg", "version": "5"}},
        "",
        "labelme.*labelme2coco",
    ),
    "labelme file": ({"a.json": {"shapes": [], "imagePath": "a"}}, "a.json", "labelme"),
    "Supervisely": (
        {"d/img/a.jpg": None, "d/ann/a.jpg.json": {"size": {}, "objects": []}, "meta.json": {}},
        "",
        "Supervisely.*export",
    ),
    "CVAT": (
        {"images/a.jpg": None, "annotations.xml": "<annotations><image/></annotations>"},
        "",
        "CVAT for images.*export",
    ),
    "VIA": (
        {"a.jpg": None, "v.json": {"a": {"filename": "a.jpg", "regions": []}}},
        "",
        "VIA project",
    ),
    "CreateML": (
        {"a.jpg": None, "c.json": [{"image": "a.jpg", "annotations": []}]},
        "",
        "CreateML",
    ),
    "Open Images": ({"a.jpg": None, "train-annotations-bbox.csv": "ImageID\n"}, "", "a table"),
    "TFRecord": ({"train.tfrecord": b"\0"}, "", "TFRecord"),
    "Hugging Face": ({"train/a.jpg": None, "train/metadata.jsonl": "{}"}, "", "Hugging Face"),
    "Parquet": ({"data/x.parquet": b"PAR1"}, "", "Parquet"),
    "KITTI": ({"image_2/0.png": None, "label_2/0.txt": "Car 0 0"}, "", "KITTI"),
    "captions": (
        {"a.jpg": None, "c.json": {"images": [], "annotations": [{"caption": "x"}]}},
        "c.json",
        "captions file.*instances",
    ),
    "panoptic": (
        {"p.json": {"images": [], "annotations": [{"segments_info": []}], "categories": []}},
        "p.json",
        "panoptic file",
    ),
    "results": (
        {"r.json": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]},
        "r.json",
        "results file.*truth",
    ),
    "one XML": ({"a.xml": voc_xml(OBJECT)}, "a.xml", "name the folder"),
    "folder above": ({"set/images/train/a.jpg": None, "set/data.yaml": YAML}, "", "there is .*set"),
    "tab": ({"data.yaml": "train: x\nnames:\n\t- cat\n"}, "data.yaml", "line 3: a tab"),
    "backslash": ({"data.yaml": 'train: "C:\\Users"\nnames: [a]\n'}, "data.yaml", "backslash"),
    "nc only": ({"data.yaml": "train: x\nnc: 2\n"}, "data.yaml", "no 'names'.*list the class"),
    "names as text": ({"data.yaml": "names: cat, dog\n"}, "data.yaml", r"must be a list.*\[cat"),
    "blank name": ({"data.yaml": "names: [cat, ' ']\n"}, "data.yaml", "class without a name"),
    "twins": ({"data.yaml": "names: [a b, 'a  b']\n"}, "data.yaml", "duplicate class name"),
    "key twice": ({"data.yaml": "names: {0: a, 1: b, 1: c}\n"}, "data.yaml", "duplicate key"),
    "darknet's classes": (
        {"obj.names": NAMES, "obj.data": darknet(classes="3", train="t.txt", names="obj.names")},
        "obj.data",
        "2 names.*says 3",
    ),
    "shares": (
        {
            "a.jpg": None,
            "c.json": {
                **coco(),
                "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4]}],
            },
        },
        "c.json",
        "shares of the picture",
    ),
    "a name too long": (
        {"data.yaml": f"path: {'y' * 5000}\ntrain: {'x' * 5000}\nnames: [a]\n"},
        "data.yaml",
        "no such folder",
    ),
    "names too long in a list": (
        {"data.yaml": "train: l.txt\nnames: [a]\n", "l.txt": f"{'x' * 5000}.jpg\n\0.jpg\n"},
        "data.yaml",
        "2 listed pictures that are missing",
    ),
    "names too long in VOC's list": (
        {"Annotations/b.xml": "", "ImageSets/Main/train.txt": f"{'x' * 5000}\n\0\n"},
        "",
        "2 pictures listed without an annotation",
    ),
    "download": (
        {"data.yaml": "train: images/train\nnames: [a]\ndownload: x\n"},
        "data.yaml",
        "'download' is not run",
    ),
    "list of nothing": (
        {"data.yaml": "train: l.txt\nnames: [a]\n", "l.txt": "x.jpg\n"},
        "data.yaml",
        "no pictures found.*1 listed pictures that are missing",
    ),
    "valid is not train": (
        {"images/a.jpg": None, "data.yaml": "train: ../train/images\nnames: [a]\n"},
        "data.yaml",
        "no such folder",
    ),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_layouts_that_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    files, file, message = REFUSED[kind]
    lay(tmp_path, files)
    with pytest.raises(AfdetError, match=message):
        open_dataset(tmp_path / file, "train" if "yaml" in file else None)


def test_a_split_that_is_not_there_does_not_hide_the_others(tmp_path: Path) -> None:
    """Roboflow names valid and test whether they were exported or not."""
    yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat, dog]\n"
    lay(tmp_path, {"train/images/a.jpg": None, "train/labels/a.txt": LABEL, "data.yaml": yaml})
    opened = open_all(tmp_path)
    assert list(opened) == ["train"]
    assert opened["train"].report.faults == ["splits that cannot be opened left out"]


def test_pictures_in_two_splits_are_said(tmp_path: Path) -> None:
    files: dict[str, Any] = {"ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/val.txt": "b\n"}
    for stem in "ab":
        files |= {f"JPEGImages/{stem}.jpg": None, f"Annotations/{stem}.xml": voc_xml(OBJECT)}
    lay(tmp_path, files)
    assert "1 pictures of 'val' are in 'train'" in open_all(tmp_path)["train"].report.lines()[0]


def test_names_that_differ_by_case_keep_their_labels_apart(tmp_path: Path) -> None:
    lay(tmp_path, {"images/train/a.jpg": None, "images/train/A.jpg": None, "data.yaml": YAML})
    lay(tmp_path, {"labels/train/a.txt": LABEL})
    data = open_dataset(tmp_path)
    assert {r.path.name: len(r.boxes) for r in data.records} == {"A.jpg": 0, "a.jpg": 1}
    assert "1 pictures without a label file" in data.report.lines()[0]


def test_a_blank_label_is_background_and_a_missing_one_is_said(tmp_path: Path) -> None:
    lay(tmp_path, {f"images/train/{n}.jpg": None for n in "abc"})
    lay(tmp_path, {"labels/train/a.txt": LABEL, "labels/train/b.txt": "\n \r\n\t\n"})
    lay(tmp_path, {"data.yaml": YAML})
    data = open_dataset(tmp_path)
    assert [len(r.boxes) for r in data.records] == [1, 0, 0]
    first = data.report.lines()[0]
    assert first.startswith("1 pictures without a label file")
    assert "c.jpg" in first


def test_two_pictures_of_one_stem(tmp_path: Path) -> None:
    """VOC's filename says which; YOLO's label is for both, which is said."""
    lay(tmp_path, {"v/a.jpg": None, "v/a.png": None, "v/a.xml": voc_xml(OBJECT)})
    xml = (tmp_path / "v/a.xml").read_text()
    (tmp_path / "v/a.xml").write_text(
        xml.replace("<annotation>", "<annotation><filename>a.png</filename>", 1)
    )
    assert open_dataset(tmp_path / "v").records[0].path.name == "a.png"
    lay(tmp_path / "y", {"images/train/a.jpg": None, "images/train/a.png": None})
    lay(tmp_path / "y", {"labels/train/a.txt": LABEL, "data.yaml": YAML})
    assert "share a label file" in open_dataset(tmp_path / "y").report.lines()[0]


def test_class_names_with_blanks_and_capitals(tmp_path: Path) -> None:
    names = ("hard hat", " hard  hat ", "Hard Hat", NFC, NFD)
    objects = [voc_object(name, (25, 13, 40, 36)) for name in names]
    lay(tmp_path, {"a.jpg": None, "a.xml": voc_xml(*objects)})
    data = open_dataset(tmp_path)
    assert data.class_names == ("Hard Hat", "hard hat", NFC)
    assert "differ from another by case alone" in data.report.lines()[0]


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, -2.0])
def test_a_turned_box_lies_in_its_upright_one(tmp_path: Path, angle: float) -> None:
    lay(tmp_path, {"a.jpg": None, "a.xml": voc_xml(rotated(angle))})
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = np.array([[-8, -12], [8, -12], [8, 12], [-8, 12]]) @ turn.T + [32, 24]
    expected = [*corners.min(0), *corners.max(0)]
    np.testing.assert_allclose(open_dataset(tmp_path).records[0].boxes[0], expected, atol=1e-4)


def test_many_labels_are_read_in_linear_time(tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        lines = (f"0 0.5 0.5 {0.1 + i * 1e-6:.6f} 0.5\n" for i in range(count))
        lay(tmp_path, {"labels/train/a.txt": "".join(lines)})
        taken = []
        for _ in range(3):  # Another program's load slows some of them down.
            begin = time.process_time()
            assert len(open_dataset(tmp_path).records[0].boxes) == count
            taken.append(time.process_time() - begin)
        return min(taken)

    lay(tmp_path, {"images/train/a.jpg": None, "data.yaml": YAML})
    seconds(10)
    # Ten times as many took a hundred times as long.
    assert seconds(50_000) < 60 * max(seconds(5_000), 0.02)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that an ordinary user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_ordinary_user(work: Callable[[], Any]) -> Any:
    """Root reads everything; the kernel asks for the effective user."""
    if os.geteuid() != 0:
        return work()
    os.seteuid(65534)
    try:
        return work()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "message"),
    [
        ("labels/train/b.txt", "1 pictures with malformed labels left out"),
        ("labels/train", "folders that cannot be read"),
        ("images/train/b.jpg", "1 pictures left out"),
        ("images/train/sub", "folders that cannot be read"),
        ("data.yaml", "the file cannot be read"),
    ],
)
def test_what_may_not_be_read_is_said(open_to_all: Path, closed: str, message: str) -> None:
    lay(open_to_all, {f"images/train/{n}.jpg": None for n in ("a", "b", "sub/c")})
    lay(open_to_all, {f"labels/train/{n}.txt": LABEL for n in ("a", "b", "sub/c")})
    lay(open_to_all, {"data.yaml": YAML})
    open_dataset(open_to_all)  # What is imported late is imported by root.
    (open_to_all / closed).chmod(0)
    try:
        found = as_ordinary_user(
            lambda: "\n".join(open_dataset(open_to_all, need_labels=False).report.lines())
        )
    except AfdetError as error:
        found = str(error)
    finally:
        (open_to_all / closed).chmod(0o755)
    assert message in found


def test_a_picture_that_may_be_read_again_is_used(open_to_all: Path) -> None:
    """What was seen while it was closed is not remembered."""
    lay(open_to_all, {"images/train/a.jpg": None, "labels/train/a.txt": LABEL, "data.yaml": YAML})
    picture = open_to_all / "images/train/a.jpg"
    picture.chmod(0)
    with contextlib.suppress(AfdetError):  # There is no other picture.
        as_ordinary_user(lambda: open_dataset(open_to_all, need_labels=False))
    picture.chmod(0o644)
    assert len(as_ordinary_user(lambda: open_dataset(open_to_all)).records) == 1


def test_a_folder_where_a_text_should_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_text(tmp_path)


def test_run_lengths_agree_with_cocos_own_decoder() -> None:
    from faster_coco_eval.core import mask

    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        bits = np.zeros((height, width), np.uint8, order="F")
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, height), rng.integers(0, width)
            bits[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = 1
        coded = mask.encode(bits)
        x, y, w, h = mask.toBbox(coded).reshape(-1)
        text = coded["counts"]
        text = text.decode() if isinstance(text, bytes) else text
        box = segmentation_box({"size": [int(height), int(width)], "counts": text})
        # COCO's own box of a run over several columns is as high as the picture as well.
        assert box == [x, y, x + w, y + h]
