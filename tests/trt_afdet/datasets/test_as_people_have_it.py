"""Datasets as tools write them and people move them: nothing is lost without a word."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.trt_afdet.dataset_makers import (
    HEIGHT,
    WIDTH,
    coco_dict,
    voc_object,
    voc_xml,
    write_coco,
    write_voc,
)
from trt_afdet.datasets import dataset_splits, open_dataset
from trt_afdet.datasets.convert import convert
from trt_afdet.errors import AfdetError, InvalidValueError, MissingFileError
from trt_afdet.media import PICTURE_SUFFIXES, read_picture
from trt_afdet.support.text import load_yaml, read_text

LABEL = "1 0.5 0.5 0.25 0.5\n"
BOX = [[24, 12, 40, 36]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def save(path: Path, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    kinds = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".tif": "TIFF"}
    kind = kinds.get(path.suffix.lower(), "JPEG")
    Image.new("RGB", size).save(path, kind, exif=exif)
    return path


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# YOLO: where labels and pictures are


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("images/train/a.jpg", "Labels/Train/a.txt"),
        ("images/train/a.jpg", "labels/train/a.TXT"),
        ("images/train/a.jpg", "labels/train/A.txt"),
        ("images/train/a.jpg", "labels/a.txt"),
        ("images/train/a.jpg", "images/train/a.txt"),
        ("Images/train/a.JPG", "labels/train/a.txt"),
        ("images/train/sub/a.jpg", "labels/train/sub/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("train/a.jpg", "train/labels/a.txt"),
        ("train/a.jpg", "labels/train/a.txt"),
        ("train/a.jpg", "labels/a.txt"),
        ("images/train/a.v2.final.jpg", "labels/train/a.v2.final.txt"),
        ("images/train/[1] 100%.jpg", "labels/train/[1] 100%.txt"),
    ],
)
def test_yolo_finds_labels(tmp_path: Path, picture: str, label: str) -> None:
    save(tmp_path / picture)
    write(tmp_path / label, LABEL)
    folder = str(Path(picture).parent).removesuffix("/sub")
    write(tmp_path / "data.yaml", f"train: {folder}\nnames: [cat, dog]\n")
    data = open_dataset(tmp_path, "train")
    np.testing.assert_allclose(data.records[0].boxes, BOX)
    assert data.report.lines() == []


@pytest.mark.parametrize("suffix", [s for s in PICTURE_SUFFIXES if s not in (".heic", ".heif")])
@pytest.mark.parametrize("upper", [False, True])
def test_every_picture_suffix_is_seen_by_every_format(
    tmp_path: Path, suffix: str, upper: bool
) -> None:
    name = f"a{suffix.upper() if upper else suffix}"  # The content is what says the format.
    save(tmp_path / "y/images/train" / name)
    write(tmp_path / "y/labels/train/a.txt", LABEL)
    write(tmp_path / "y/data.yaml", "train: images/train\nnames: [cat, dog]\n")
    save(tmp_path / "v/JPEGImages" / name)
    write(tmp_path / "v/Annotations/a.xml", voc_xml(voc_object("dog", (25, 13, 40, 36))))
    for root in ("y", "v"):
        np.testing.assert_allclose(open_dataset(tmp_path / root).records[0].boxes, BOX)


@pytest.mark.parametrize(
    "litter",
    ["._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/a.jpg", "Thumbs.db", ".DS_Store",
     "@eaDir/a.jpg", "x.jpg/"],
)  # fmt: skip
def test_litter_is_no_picture(tmp_path: Path, litter: str) -> None:
    save(tmp_path / "images/train/a.jpg")
    write(tmp_path / "labels/train/a.txt", LABEL)
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    place = tmp_path / "images/train" / litter
    if litter.endswith("/"):
        place.mkdir()
    else:
        write(place, b"\0\5\x16\7")
    data = open_dataset(tmp_path)
    assert (len(data), data.report.lines()) == (1, [])


YAMLS = {
    "Roboflow": "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",
    "Ultralytics": "path: .\ntrain: train/images\nnames:\n  0: cat\n  1: dog\n",
    "list of folders": "train: [train/images]\nnames: [cat, dog]\n",
    "list file": "train: train.txt\nnames: [cat, dog]\n",
    "empty path": "path:\ntrain: train/images\nnames: [cat, dog]\n",
    "tilde": "path: ~\ntrain: train/images\nnames: [cat, dog]\n",
    "path elsewhere": "path: /content/drive/x\ntrain: train/images\nnames: [cat, dog]\n",
    "absolute elsewhere": "train: /content/data/train/images\nnames: [cat, dog]\n",
    "backslashes": "train: train\\images\nnames: [cat, dog]\n",
    "string keys": "train: train/images\nnames: {'0': cat, '1': dog}\n",
    "training": "training: train/images\nnames: [cat, dog]\n",
    "pattern": "train: tr*/images\nnames: [cat, dog]\n",
    "no split": "names: [cat, dog]\n",
}


@pytest.mark.parametrize("name", ["data.yaml", "data.yml", "my-data.yaml"])
@pytest.mark.parametrize("kind", list(YAMLS))
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_yolo_reads_the_yaml_people_write(
    tmp_path: Path, name: str, kind: str, mark: bytes
) -> None:
    root = tmp_path / "data"
    save(root / "train/images/a.jpg")
    write(root / "train/labels/a.txt", LABEL)
    write(root / "train.txt", "./train/images/a.jpg\r\n")
    config = write(root / name, mark + YAMLS[kind].encode())
    data = open_dataset(config, "train")
    assert data.class_names == ("cat", "dog")
    np.testing.assert_allclose(data.records[0].boxes, BOX)


def test_words_of_yaml_are_class_names(tmp_path: Path) -> None:
    save(tmp_path / "images/train/a.jpg")
    write(tmp_path / "labels/train/a.txt", LABEL)
    write(tmp_path / "data.yaml", "train: images/train\nnames: [yes, no, on, 1, 1e3, null]\n")
    assert open_dataset(tmp_path).class_names == ("yes", "no", "on", "1", "1e3", "null")
    assert load_yaml("[yes, No, on, OFF, true, False]") == ["yes", "No", "on", "OFF", True, False]


@pytest.mark.parametrize("split", ["val", "valid", "validation"])
def test_splits_have_several_names(tmp_path: Path, split: str) -> None:
    save(tmp_path / "valid/images/a.jpg")
    write(tmp_path / "valid/labels/a.txt", LABEL)
    write(tmp_path / "data.yaml", "valid: valid/images\nnames: [cat, dog]\n")
    assert len(open_dataset(tmp_path, split)) == 1
    assert dataset_splits(tmp_path) == ["val"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 .5 .5 .1 .1\n2 .5 .5 .1 .1\n", "count classes from 1"),
        ("0 32 24 16 12\n", "in pixels"),
        ("9 .5 .5 .1 .1\n", "out of range 0..1"),
    ],
)
def test_yolo_refuses_other_conventions_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    save(tmp_path / "images/train/a.jpg")
    write(tmp_path / "labels/train/a.txt", text)
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    with pytest.raises(InvalidValueError, match=says):
        open_dataset(tmp_path)


def test_yolo_without_any_label_says_where_it_looked(tmp_path: Path) -> None:
    save(tmp_path / "images/train/a.jpg")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    with pytest.raises(MissingFileError, match=r"no label file .* looked in .*labels/train"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, need_labels=False)) == 1


# VOC


@pytest.mark.parametrize(
    ("layout", "splits"),
    [
        ({"x": "a.xml", "p": "a.jpg"}, [None]),
        ({"x": "Annotations/a.xml", "p": "JPEGImages/a.jpg"}, [None]),
        ({"x": "annotations/a.xml", "p": "images/a.png"}, [None]),
        ({"x": "annotations/train/a.xml", "p": "images/train/a.png"}, ["train"]),
        ({"x": "train/a.xml", "p": "train/a.jpg"}, ["train"]),
        ({"x": "train/Annotations/a.xml", "p": "train/images/a.jpg"}, ["train"]),
    ],
)
def test_voc_layouts(tmp_path: Path, layout: dict[str, str], splits: list[str | None]) -> None:
    save(tmp_path / layout["p"])
    write(tmp_path / layout["x"], voc_xml(voc_object("helmet", (25, 13, 40, 36))))
    data = open_dataset(tmp_path, splits[0])
    assert data.class_names == ("helmet",)
    np.testing.assert_allclose(data.records[0].boxes, BOX)
    assert dataset_splits(tmp_path) == splits


def test_voc_has_one_class_list_over_all_splits(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_xml(voc_object("WBC", (1, 1, 9, 9)))}, split="train")
    write_voc(tmp_path, {"b": voc_xml(voc_object("RBC", (1, 1, 9, 9)))}, split="val")
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert train.class_names == val.class_names == ("RBC", "WBC")
    assert (train.records[0].labels.tolist(), val.records[0].labels.tolist()) == ([1], [0])
    write(
        tmp_path / "labelmap.txt", "# label:color\nbackground:0,0,0::\nWBC:1,1,1::\nRBC:2,2,2::\n"
    )
    assert open_dataset(tmp_path, "val").class_names == ("WBC", "RBC")
    model = open_dataset(tmp_path, "val", class_names=("Platelets", "RBC", "WBC"))
    assert model.records[0].labels.tolist() == [1]


def test_voc_makes_the_same_split_each_time(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / f"{i}.jpg")
        write(tmp_path / f"{i}.xml", voc_xml(voc_object("x", (1, 1, 9, 9))))
    parts = [{r.path.name for r in open_dataset(tmp_path, s).records} for s in ("train", "val")]
    assert (len(parts[0]), len(parts[1]), parts[0] & parts[1]) == (8, 2, set())
    assert {r.path.name for r in open_dataset(tmp_path, "val").records} == parts[1]


@pytest.mark.parametrize("line", ["a", "a.jpg", "a.xml", "a  1", "a -1", "/x/y/a.jpg", "\ufeffa\r"])
def test_voc_list_lines(tmp_path: Path, line: str) -> None:
    root = write_voc(tmp_path, {"a": voc_xml(voc_object("x", (1, 1, 9, 9)))})
    write(root / "ImageSets/Main/trainval.txt", line + "\n")
    assert len(open_dataset(root)) == 1


GOOD = voc_xml(voc_object("dog", (25, 13, 40, 36)))


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        b'<?xml version="1.0" encoding="gbk"?>'
        + GOOD.replace("<size>", "<f>图</f><size>").encode("gbk"),
        b'<?xml version="1.0" encoding="utf-16"?>' + GOOD.encode(),
        b'<?xml version="1.0" encoding="windows-1251"?>' + GOOD.encode(),
        GOOD.replace("<size>", "<f>Bühne</f><size>").encode("latin-1"),
        b"<!DOCTYPE annotation>" + GOOD.encode(),
        GOOD.replace("<difficult>0</difficult>", "").encode(),
        GOOD.replace("<difficult>0<", "<difficult>Unspecified<").encode(),
        GOOD.replace("64", "0").encode(),
        GOOD.replace("64", "wide").encode(),
        GOOD.replace("<size>", "<s>").replace("</size>", "</s>").encode(),
        GOOD.replace(">25<", "> 25,0 <").encode(),
        GOOD.replace("dog", "Dog").encode(),
        GOOD.replace("<annotation>", '<annotation xmlns="http://x.org/">').encode(),
    ],
)  # fmt: skip
def test_voc_texts(tmp_path: Path, text: bytes) -> None:
    root = write_voc(tmp_path, {"a": ""})
    write(root / "Annotations/a.xml", text)
    data = open_dataset(root)
    np.testing.assert_allclose(data.records[0].boxes, BOX)
    assert data.class_names[data.records[0].labels[0]] == "dog"
    assert not data.report.faults


# COCO


@pytest.mark.parametrize(
    ("place", "pictures", "split"),
    [
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("result.json", "images", None),
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/train.json", "images/train", "train"),
        ("train.json", "images", "train"),
        ("_annotations.coco.json", ".", None),
    ],
)
def test_coco_layouts(tmp_path: Path, place: str, pictures: str, split: str | None) -> None:
    raw = json.loads(write_coco(tmp_path / "made").read_text())
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path / "data" / pictures / name)
    write(tmp_path / "data" / place, b"\xef\xbb\xbf" + json.dumps(raw).encode())
    assert sum(len(r.boxes) for r in open_dataset(tmp_path / "data", split).records) == 3


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        ([[1, 2, 11, 2, 11, 22]], [1, 2, 11, 22]),
        ([1, 2, 11, 2, 11, 22], [1, 2, 11, 22]),
        ({"size": [4, 6], "counts": [5, 2, 2, 2, 13]}, [1, 1, 3, 3]),
        ({"size": [4, 6], "counts": [6, 8, 10]}, [1, 0, 4, 4]),
    ],
)
def test_coco_takes_the_box_of_a_mask(tmp_path: Path, mask: Any, box: list[int]) -> None:
    file = write_coco(tmp_path)
    raw = json.loads(file.read_text())
    raw["annotations"] = [{"image_id": 7, "category_id": 2, "segmentation": mask}]
    file.write_text(json.dumps(raw))
    assert open_dataset(file).records[0].boxes.tolist() == [box]


def test_coco_ignore_and_crowd_are_ignored(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    raw = json.loads(file.read_text())
    raw["annotations"][0]["ignore"] = 1
    file.write_text(json.dumps(raw))
    assert open_dataset(file).records[0].ignored.tolist() == [True, True]


# EXIF: one rule


# Mirrored and upside-down pictures have the same size either way: nothing says "stored".
@pytest.mark.parametrize(
    ("orientation", "said"),
    [*((o, "shown") for o in range(1, 9)), *((o, "stored") for o in range(5, 9))],
)
def test_boxes_turn_with_the_picture(tmp_path: Path, orientation: int, said: str) -> None:
    """A white box on black is where the annotation says, whatever the orientation."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[8:24, 40:56] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "images/val/a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(stored).save(path, exif=exif)
    turned = orientation > 4
    if said == "shown":
        white = np.argwhere(read_picture(path)[..., 0] > 128)
        (y1, x1), (y2, x2) = white.min(axis=0).tolist(), (white.max(axis=0) + 1).tolist()
        size = (HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT)
    else:
        x1, y1, x2, y2, size = 40, 8, 56, 24, (WIDTH, HEIGHT)
    raw = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
        "categories": [{"id": 1, "name": "x"}],
    }
    write(tmp_path / "annotations/instances_val.json", json.dumps(raw))
    data = open_dataset(tmp_path)
    record = data.records[0]
    left, top, right, bottom = record.boxes[0].astype(int).tolist()
    image = data.read_image(record)
    assert image[top:bottom, left:right].min() > 128
    assert int((image[..., 0] > 128).sum()) == 256 == (right - left) * (bottom - top)
    assert (said == "stored") == (
        "pictures whose boxes were turned with them" in data.report.counts
    )


# Known before the first step


def test_all_faults_are_known_at_once_and_remembered(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i in range(6):
        save(root / f"images/train/{i}.jpg", size=(200, 160))
        write(root / f"labels/train/{i}.txt", LABEL)
    whole = (root / "images/train/1.jpg").read_bytes()
    write(root / "images/train/1.jpg", whole[: len(whole) // 2])
    write(root / "images/train/2.jpg", b"")
    write(root / "labels/train/3.txt", "hello\n")
    (root / "images/train/x.jpg").symlink_to("nowhere.jpg")
    write(root / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    before = sorted(root.rglob("*"))
    for _ in range(2):
        data = open_dataset(root, decode=True)
        assert [r.path.stem for r in data.records] == ["0", "4", "5"]
        assert len(data.report.faults) == 4
    assert sorted(root.rglob("*")) == before
    with pytest.raises(InvalidValueError, match="has faults"):
        open_dataset(root, decode=True, strict=True)
    write(root / "images/train/1.jpg", whole)
    os.utime(root / "images/train/1.jpg", ns=(1, 1))
    assert len(open_dataset(root, decode=True)) == 4


def test_more_than_half_without_labels_is_said(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"images/train/{i}.jpg")
    write(tmp_path / "labels/train/0.txt", LABEL)
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    lines = open_dataset(tmp_path).report.lines()
    assert any("2 of 3 pictures have no labels" in line for line in lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_taken_in_every_text(tmp_path: Path, encoding: str) -> None:
    assert read_text(write(tmp_path / "t", "äb".encode(encoding))) == "äb"


# Fuzz: a clear error or a dataset; no box is lost without a line

FUZZ = settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
VALUE = st.one_of(
    st.floats(-1, 2),
    st.integers(-3, 70),
    st.sampled_from(["", "x", "nan", "inf", "1,5", None, "3"]),
)  # fmt: skip


def check(open_it: Callable[[], Any], boxes: int) -> None:
    try:
        data = open_it()
    except AfdetError:
        return
    kept = sum(len(r.boxes) for r in data.records)
    assert kept >= boxes or data.report.lines()
    for record in data.records:
        assert np.isfinite(record.boxes).all()


@pytest.fixture(scope="module")
def fuzz_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@FUZZ
@given(st.lists(st.lists(VALUE, max_size=9), max_size=4), st.sampled_from([" ", "\t", ",", "  "]))
def test_fuzz_yolo(fuzz_root: Path, rows: list[list[Any]], separator: str) -> None:
    root = fuzz_root / "yolo"
    if not root.exists():
        save(root / "images/train/a.png")
        write(root / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    lines = [separator.join(map(str, row)) for row in rows]
    write(root / "labels/train/a.txt", "\n".join(lines))
    check(lambda: open_dataset(root, "train"), sum(bool(x.strip(" \t,")) for x in lines))


@FUZZ
@given(
    st.lists(st.lists(VALUE, min_size=4, max_size=4), max_size=4),
    st.lists(VALUE, min_size=2, max_size=2),
    st.binary(max_size=4),
    st.booleans(),
)
def test_fuzz_voc(
    fuzz_root: Path, boxes: list[list[Any]], size: list[Any], junk: bytes, broken: bool
) -> None:
    root = fuzz_root / "voc"
    if not root.exists():
        save(root / "a.png")
    objects = "".join(voc_object("dog", tuple(b)) for b in boxes)  # type: ignore[arg-type]
    text = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}"
    data = (text + "</annotation>").encode()
    write(
        root / "a.xml", data[: len(data) // 2] + junk + data[len(data) // 2 :] if broken else data
    )
    check(lambda: open_dataset(root), 0 if broken else len(boxes))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-9, 99) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)  # fmt: skip


@FUZZ
@given(st.data())
def test_fuzz_coco(fuzz_root: Path, data: st.DataObject) -> None:
    root = fuzz_root / "coco"
    if not root.exists():
        write_coco(root)
    raw = coco_dict()
    section = data.draw(st.sampled_from(["images", "annotations", "categories"]))
    entry = data.draw(st.sampled_from(raw[section]))
    key = data.draw(st.sampled_from([*entry, "ignore", "segmentation", "supercategory"]))
    entry[key] = data.draw(JSON)
    write(root / "annotations/instances_val.json", json.dumps(raw))
    boxes = len(raw["annotations"])
    check(lambda: open_dataset(root / "annotations/instances_val.json"), boxes)


# Round trips


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 50), st.floats(0, 40), st.floats(1, 14), st.floats(1, 8), st.integers(0, 1)
        ),
        min_size=1,
        max_size=5,
        unique=True,
    ),
    st.sampled_from(["coco", "voc", "yolo"]),
    st.sampled_from(["coco", "voc", "yolo"]),
)
def test_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    boxes: list[tuple[float, float, float, float, int]],
    first: str,
    second: str,
) -> None:
    root = tmp_path_factory.mktemp("trip")
    for name in ("a.png", "b.png"):
        save(root / "start/images/train" / name)
    raw = {
        "images": [
            {"id": i, "file_name": n, "width": WIDTH, "height": HEIGHT}
            for i, n in enumerate(("a.png", "b.png"))
        ],
        "annotations": [
            {"image_id": 0, "category_id": c, "bbox": [x, y, w, h]} for x, y, w, h, c in boxes
        ],
        "categories": [{"id": 0, "name": "yes"}, {"id": 1, "name": "a: b's"}],
    }
    write(root / "start/annotations/instances_train.json", json.dumps(raw))
    before = open_dataset(root / "start", "train")
    convert(root / "start", root / "one", first)
    convert(root / "one", root / "two", second, link=True)
    convert(root / "two", root / "three", "coco")
    after = open_dataset(root / "three", "train")
    assert after.class_names == before.class_names
    assert [r.path.name for r in after.records] == ["a.png", "b.png"]
    for old, new in zip(before.records, after.records, strict=True):
        np.testing.assert_array_equal(old.labels, new.labels)
        np.testing.assert_allclose(old.boxes, new.boxes, atol=1e-3)
    shutil.rmtree(root)


def test_convert_refuses_a_target_that_is_not_empty(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "a", {"a": GOOD})
    write(tmp_path / "b/x", "x")
    with pytest.raises(InvalidValueError, match="not empty"):
        convert(root, tmp_path / "b", "coco")
    (tmp_path / "c").mkdir()
    convert(root, tmp_path / "c", "yolo")
    assert (tmp_path / "c/data.yaml").is_file()


def test_only_coco_files_keep_the_scores_of_labels(tmp_path: Path) -> None:
    source = tmp_path / "labelled"
    save(source / "a.png")
    write(source / "a.txt", "0 .5 .5 .2 .2 0.25\n0 .5 .5 .3 .3\n")
    write(source / "classes.txt", "cat\n")
    kind = "labels written without their score, which only COCO files keep"
    for form, lost in (("coco", 0), ("voc", 1), ("yolo", 1)):
        (written,) = convert(source, tmp_path / form, form).values()
        assert written.report.counts[kind] == lost
        again = open_dataset(tmp_path / form, "train").records[0].scores
        assert again.tolist() == ([1, 1] if lost else [0.25, 1])
