"""Every format read right, and every broken file refused in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.trt_afdet.dataset_makers import (
    HEIGHT,
    WIDTH,
    coco_dict,
    voc_object,
    voc_xml,
    write_coco,
    write_picture,
    write_voc,
    write_yolo,
)
from trt_afdet.datasets import open_dataset
from trt_afdet.errors import (
    AfdetError,
    CorruptFileError,
    InvalidValueError,
    MissingDependencyError,
    MissingFileError,
)

VOC2 = ("cat", "dog")


# COCO


def test_coco_reads_what_was_written(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = open_dataset(tmp_path, split="val")
    assert data.class_names == ("cat", "dog")  # by category id
    assert data.category_ids == (2, 9)
    assert [r.image_id for r in data.records] == [7, 3]
    first, second = data.records
    assert first.boxes.dtype == np.float32
    assert first.labels.dtype == np.int64
    np.testing.assert_array_equal(first.boxes, [[4, 5, 14, 25], [30, 8, 42, 14]])
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_array_equal(first.crowd, [False, True])
    np.testing.assert_array_equal(first.ignored, [False, True])
    np.testing.assert_array_equal(first.area, [150, 72])  # the mask's, else the box's
    assert first.segmentations == (None, None)
    assert second.segmentations == ([[1, 2, 4, 2, 4, 6]],)
    assert data.read_image(first).shape == (HEIGHT, WIDTH, 3)
    assert data.report.lines() == []


def test_coco_opens_by_its_json_too(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    by_file, by_folder = open_dataset(file), open_dataset(tmp_path)
    assert [r.path for r in by_file.records] == [r.path for r in by_folder.records]


@pytest.mark.parametrize("place", ["images", "val", "annotations", "elsewhere"])
def test_coco_finds_pictures_in_the_usual_places(tmp_path: Path, place: str) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "images" / "val").rename(tmp_path / "moved")
    (tmp_path / "images").rmdir()
    target = tmp_path / place
    if place == "annotations":
        for picture in (tmp_path / "moved").iterdir():
            picture.rename(target / picture.name)
    else:
        (tmp_path / "moved").rename(target)
    data = open_dataset(file, images=target if place == "elsewhere" else None)
    assert {r.path.parent for r in data.records} == {target}


def _without(section: str, key: str) -> Any:
    def change(raw: dict[str, Any]) -> None:
        del raw[section][0][key]

    return change


def _set(section: str, key: str, value: object, entry: int = 0) -> Any:
    def change(raw: dict[str, Any]) -> None:
        raw[section][entry][key] = value

    return change


def _empty(section: str) -> Any:
    return lambda raw: raw.update({section: []})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("images", "id", 3), "duplicate image id"),
        (_set("images", "file_name", "b.jpg"), "duplicate file name"),
        (_set("categories", "id", 2), "duplicate category id"),
        (_set("images", "frame_index", [1]), "frame_index"),
        (_set("images", "frame_index", -1), "is not a number from 0"),
        (_set("images", "frame_index", 0), "some images are frames of a video"),
        (_without("images", "file_name"), "images[0] has no 'file_name'"),
        (_empty("images"), "holds no images"),
        (_empty("categories"), "holds no categories"),
    ],
)
def test_coco_refuses_broken_content(tmp_path: Path, change: Any, says: str) -> None:
    raw = copy.deepcopy(coco_dict())
    change(raw)
    file = write_coco(tmp_path, raw)
    with pytest.raises(CorruptFileError) as caught:
        open_dataset(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_set("annotations", "id", 3), "share an id"),
        (_set("annotations", "id", [3]), None),
        (_set("categories", "name", "cat"), "share a name"),
        (_set("annotations", "category_id", 4), "unknown category"),
        (_set("annotations", "image_id", 4), "unknown image"),
        (_set("annotations", "bbox", [1, 2, 3]), "x, y, width, height"),
        (_set("annotations", "bbox", ["a", 2, 3, 4]), "non-finite"),
        (_set("annotations", "bbox", 5), "without a box"),
        (_without("annotations", "bbox"), "without a box"),
        (_set("annotations", "bbox", [], 2), "taken from the segmentation"),
        (_set("annotations", "bbox", ["4", "5.0", 10, 20.0]), None),
        (_set("annotations", "area", None), None),
        (_set("annotations", "image_id", "7"), None),
        (_set("annotations", "category_id", 9.0), None),
        (_set("images", "id", "x"), "unknown image"),
        (_set("images", "width", 0), "sizes read from the picture"),
        (_set("images", "width", float("inf")), "sizes read from the picture"),
        (_without("images", "width"), "sizes read from the picture"),
        (_set("images", "file_name", "sub\\b.jpg"), "pictures that are missing"),
        (_set("images", "file_name", "C:\\data\\A.JPG"), None),
        (_set("images", "file_name", "/data/upload/a.jpg"), None),
        (_set("images", "file_name", "/data/local-files/?d=x/a.jpg"), None),
        (_empty("annotations"), "have no labels"),
        (lambda raw: raw.pop("annotations"), "have no labels"),
    ],
)
def test_coco_uses_what_it_can_and_says_the_rest(
    tmp_path: Path, change: Any, finding: str | None
) -> None:
    raw = copy.deepcopy(coco_dict())
    change(raw)
    file = write_coco(tmp_path, raw)
    if "sub" in str(raw["images"][0]["file_name"]):
        raw["images"][0]["file_name"] = "sub\\nowhere.jpg"
        file.write_text(json.dumps(raw))
    data = open_dataset(file)
    lines = data.report.lines()
    assert (lines == []) == (finding is None), lines
    if finding is not None:
        assert any(finding in line for line in lines), lines


@pytest.mark.parametrize("text", ["", "{", '{"images": [', "[]", "null", "\x00", "[" * 100_000])
def test_coco_refuses_what_is_no_coco(tmp_path: Path, text: str) -> None:
    file = write_coco(tmp_path)
    file.write_text(text)
    with pytest.raises(CorruptFileError, match=r"instances_val\.json"):
        open_dataset(file)


def test_coco_names_a_missing_picture_and_counts(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "images" / "val" / "b.jpg").unlink()
    data = open_dataset(file)
    assert [r.path.name for r in data.records] == ["a.jpg"]
    assert data.report.lines() == ["1 pictures that are missing (first: b.jpg)"]
    with pytest.raises(InvalidValueError, match="1 pictures that are missing"):
        open_dataset(file, strict=True)
    (tmp_path / "images" / "val" / "a.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"not found \(got a.jpg\) - looked in"):
        open_dataset(file)


def test_bad_boxes_are_counted_in_one_line_per_kind(tmp_path: Path) -> None:
    raw = coco_dict()
    boxes = [
        [-5, -5, 20, 20],  # clipped
        [60, 40, 20, 20],  # clipped
        [10, 10, -4, 5],  # inverted
        [10, 10, 0, 5],  # empty
        [100, 10, 5, 5],  # outside
        [float("nan"), 1, 2, 3],
        [1, 2, 3, 4],  # good
    ]
    raw["annotations"] = [
        {"id": i, "image_id": 7, "category_id": 9, "bbox": box} for i, box in enumerate(boxes)
    ]
    data = open_dataset(write_coco(tmp_path, raw))
    expected = [[0, 0, 15, 15], [60, 40, 64, 48], [1, 2, 4, 6]]
    np.testing.assert_array_equal(data.records[0].boxes, expected)
    assert dict(data.report.counts) == {
        "boxes clipped to the picture": 2,
        "inverted or empty boxes dropped": 2,
        "boxes outside the picture dropped": 1,
        "non-finite boxes dropped": 1,
    }
    assert len(data.report.lines()) == 4
    assert all("a.jpg" in line for line in data.report.lines())


# Pictures


@pytest.mark.parametrize("name", ["p.jpg", "p.png"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_cut_off_picture_is_refused(tmp_path: Path, name: str, share: float) -> None:
    raw = coco_dict()
    raw["images"][0]["file_name"] = name
    write_picture(tmp_path / "images" / "val" / name)
    data = open_dataset(write_coco(tmp_path, raw))
    path = data.records[0].path
    assert data.read_image(data.records[0]).shape == (HEIGHT, WIDTH, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptFileError, match=name):
        data.read_image(data.records[0])


def test_a_jpeg_with_something_after_its_end_is_fine(tmp_path: Path) -> None:
    data = open_dataset(write_coco(tmp_path))
    path = data.records[0].path
    path.write_bytes(path.read_bytes() + b"\x00" * 5000)
    assert data.read_image(data.records[0]).shape == (HEIGHT, WIDTH, 3)


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut_off(tmp_path: Path) -> None:
    data = open_dataset(write_coco(tmp_path))
    path = data.records[0].path
    whole = path.read_bytes()
    thumbnail = b"Exif" + whole[:500] + b"\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert data.read_image(data.records[0]).shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(whole[:2] + segment + whole[2:-50])
    with pytest.raises(CorruptFileError, match="cut off"):
        data.read_image(data.records[0])


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    data = open_dataset(write_coco(tmp_path))
    cv2.imwrite(str(data.records[0].path), np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
    with pytest.raises(CorruptFileError, match="is 65x48, its annotations say 64x48"):
        data.read_image(data.records[0])


# Video


def _write_video(tmp_path: Path, frames: int, truth: list[int]) -> Path:
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT)
    )
    for index in range(frames):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8))
    writer.release()
    raw = coco_dict()
    raw["images"] = [
        {"id": i, "frame_index": i, "file_name": "clip.avi", "width": WIDTH, "height": HEIGHT}
        for i in truth
    ]
    raw["annotations"] = [{"id": 1, "image_id": truth[0], "category_id": 2, "bbox": [1, 2, 3, 4]}]
    (tmp_path / "clip.json").write_text(json.dumps(raw))
    return tmp_path / "clip.json"


def test_video_frames_come_in_the_records_order(tmp_path: Path) -> None:
    data = open_dataset(_write_video(tmp_path, 8, [1, 2, 5, 3]))  # also backwards
    assert data.is_video
    shades = [int(frame.mean().round()) for _, frame in data.frames()]
    np.testing.assert_allclose(shades, [20, 40, 100, 60], atol=3)


def test_a_video_shorter_than_its_truth_is_refused(tmp_path: Path) -> None:
    data = open_dataset(_write_video(tmp_path, 3, [0, 1, 5]))
    with pytest.raises(CorruptFileError, match=r"ends before frame 5 .*3 frames"):
        list(data.frames())


def test_a_corrupt_video_is_refused(tmp_path: Path) -> None:
    file = _write_video(tmp_path, 3, [0])
    (tmp_path / "clip.avi").write_bytes(b"no video")
    with pytest.raises(CorruptFileError, match="looks like a text file"):
        list(open_dataset(file).frames())


# Pascal VOC


def test_voc_counts_from_one_and_keeps_difficult(tmp_path: Path) -> None:
    text = voc_xml(voc_object("dog", (1, 1, 10, 20)), voc_object("cat", (5, 6, 64, 48), 1))
    root = write_voc(tmp_path, {"000001": text, "000002": voc_xml()})
    data = open_dataset(root, "trainval", class_names=VOC2)
    first, second = data.records
    np.testing.assert_array_equal(first.boxes, [[0, 0, 10, 20], [4, 5, 64, 48]])
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_array_equal(first.difficult, [False, True])
    assert (first.width, first.height) == (WIDTH, HEIGHT)
    assert second.boxes.shape == (0, 4)
    assert data.report.lines() == []
    assert data.read_image(second).shape == (HEIGHT, WIDTH, 3)


def test_voc_knows_its_twenty_classes(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_xml(voc_object("person", (1, 1, 9, 9)))})
    data = open_dataset(root)
    assert len(data.class_names) == 20
    assert data.class_names[data.records[0].labels[0]] == "person"


@pytest.mark.parametrize("joined", ["{0}/VOC2007,{0}/VOC2012", "{0}"])
def test_voc_years_are_joined(tmp_path: Path, joined: str) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_voc(tmp_path / year, {"a": voc_xml(voc_object("cat", (1, 1, 9, 9)))})
    data = open_dataset(joined.format(tmp_path), "trainval")
    assert [r.image_id for r in data.records] == [1, 2]
    assert [r.path.parts[-3] for r in data.records] == ["VOC2007", "VOC2012"]


def test_voc_takes_the_year_that_has_the_split(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOC2007", {"a": voc_xml()}, split="test")
    write_voc(tmp_path / "VOC2012", {"a": voc_xml()})
    assert len(open_dataset(tmp_path, "test")) == 1


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", CorruptFileError, "not XML"),
        (voc_xml()[:-5], CorruptFileError, "not XML"),
        ('<?xml version="1.0" encoding="none"?><a/>', CorruptFileError, "not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', CorruptFileError, "DOCTYPE"),
        (voc_xml(voc_object("unicorn", (1, 1, 9, 9))), InvalidValueError, "unknown class"),
        (
            voc_xml(voc_object("cat", (1, 1, 9, 9))).replace("<xmax>9</xmax>", ""),
            CorruptFileError,
            "<xmax> of <bndbox> is not a number",
        ),
    ],
)
def test_voc_refuses_broken_annotations(
    tmp_path: Path, text: str, error: type[AfdetError], says: str
) -> None:
    root = write_voc(tmp_path, {"a": text})
    with pytest.raises(error) as caught:
        open_dataset(root, class_names=VOC2)
    assert says in str(caught.value)
    assert "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_voc_refuses_entities_in_any_encoding(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": ""})
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    (root / "Annotations" / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(CorruptFileError, match="DOCTYPE"):
        open_dataset(root)


def test_voc_names_what_is_missing(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_xml(), "b": voc_xml(), "c": voc_xml()})
    with pytest.raises(MissingFileError, match=r"no split 'test' - it has trainval"):
        open_dataset(root, "test")
    (root / "JPEGImages" / "a.jpg").unlink()
    (root / "Annotations" / "b.xml").unlink()
    data = open_dataset(root)
    assert [r.path.name for r in data.records] == ["c.jpg"]
    assert data.report.counts["annotations without a picture left out"] == 1
    assert data.report.counts["pictures listed without an annotation left out"] == 1


def test_voc_lists(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_xml()})
    listing = root / "ImageSets" / "Main" / "trainval.txt"
    listing.write_text("a\na\n")
    data = open_dataset(root)
    assert len(data) == 1
    assert data.report.counts["pictures listed twice, taken once"] == 1
    listing.write_text("")
    with pytest.raises(CorruptFileError, match="empty"):
        open_dataset(root)


# YOLO


def test_yolo_scales_to_pixels(tmp_path: Path) -> None:
    config = write_yolo(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.5\n", "b": None})
    for path in (config, tmp_path):
        data = open_dataset(path, "train")
        assert data.class_names == ("cat", "dog")
        first, second = data.records
        np.testing.assert_allclose(first.boxes, [[24, 12, 40, 36], [0, 0, 32, 24]])
        np.testing.assert_array_equal(first.labels, [1, 0])
        assert second.boxes.shape == (0, 4)


def test_yolo_without_yaml_needs_class_names(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.1 0.1"}).unlink()
    with pytest.raises(MissingFileError, match="class names"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, class_names=VOC2).records[0].boxes) == 1


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("2 .5 .5 .1 .1", InvalidValueError, "a.txt:1: class id out of range 0..1"),
        ("-1 .5 .5 .1 .1", InvalidValueError, "a.txt:1: class id out of range"),
        ("0.5 .5 .5 .1 .1", InvalidValueError, "a.txt:1: class id out of range"),
        ("nan .5 .5 .1 .1", InvalidValueError, "a.txt:1: class id out of range"),
        ("0 .5 .5 .1 .1\n0 .5 .5 .1", CorruptFileError, "a.txt:2: expected 'class x y w h'"),
        ("0 .5 .5 .1 x", CorruptFileError, "a.txt:1: not numbers"),
    ],
)
def test_yolo_refuses_broken_labels(
    tmp_path: Path, text: str, error: type[AfdetError], says: str
) -> None:
    config = write_yolo(tmp_path, {"a": text})
    with pytest.raises(error) as caught:
        open_dataset(config)
    assert says in str(caught.value)


def test_yolo_drops_boxes_that_are_not_finite(tmp_path: Path) -> None:
    data = open_dataset(write_yolo(tmp_path, {"a": "0 nan .5 .1 .1\n0 .5 .5 inf .1\n"}))
    assert data.report.counts["non-finite boxes dropped"] == 2


@pytest.mark.parametrize(
    ("yaml_text", "error", "says"),
    [
        ("", CorruptFileError, "no 'names'"),
        ("names: [", CorruptFileError, "not YAML"),
        ("names: cat\ntrain: images/train", CorruptFileError, "must be a list"),
        ("names: [cat, cat]\ntrain: images/train", CorruptFileError, "duplicate class name"),
        ("names: {1: cat, a: dog}\ntrain: images/train", CorruptFileError, "0, 1, 2"),
        ("names: [cat]\ntest: images/train", InvalidValueError, "it has test"),
        ("names: [cat]\ntrain: nowhere", MissingFileError, "nowhere"),
    ],
)
def test_yolo_refuses_a_broken_yaml(
    tmp_path: Path, yaml_text: str, error: type[AfdetError], says: str
) -> None:
    config = write_yolo(tmp_path, {"a": "0 .5 .5 .1 .1"})
    config.write_text(yaml_text)
    (tmp_path / "images" / "train").rename(tmp_path / "images" / "one")
    with pytest.raises(error) as caught:
        open_dataset(config)
    assert says in str(caught.value)


def test_yolo_says_which_package_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_yolo(tmp_path, {"a": None})
    monkeypatch.setitem(sys.modules, "yaml", None)  # what Python does for a missing module
    with pytest.raises(MissingDependencyError, match=r'pip install "trt-afdet\[runtime\]"'):
        open_dataset(config)


# Choosing the format


def test_open_dataset_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing of use")
    with pytest.raises(MissingFileError, match=r"annotations.*ImageSets/Main.*data\.yaml"):
        open_dataset(tmp_path)
    with pytest.raises(MissingFileError, match="no such dataset"):
        open_dataset(tmp_path / "nowhere")


def test_open_dataset_names_the_splits(tmp_path: Path) -> None:
    write_coco(tmp_path, split="train")
    write_coco(tmp_path, split="val")
    with pytest.raises(MissingFileError, match="no split 'test' - it has train, val"):
        open_dataset(tmp_path, "test")
    with pytest.raises(InvalidValueError, match="2 splits"):
        open_dataset(tmp_path)


def test_head_spreads_over_the_whole(tmp_path: Path) -> None:
    data = open_dataset(write_yolo(tmp_path, {f"{i:02}": "0 .5 .5 .1 .1" for i in range(11)}))
    assert [r.path.stem for r in data.head(3).records] == ["00", "05", "10"]
    assert data.head(99) is data


def test_coco_keeps_the_scores_of_labels(tmp_path: Path) -> None:
    raw = coco_dict()
    given = [0.25, 1, None, "0.5", float("nan"), -1, 7, 0, True, [0.3]]
    expected = [0.25, 1, 1, 0.5, 1, 1, 1, 1, 1, 1]
    first = raw["images"][0]["id"]
    raw["annotations"] = [
        {"id": i, "image_id": first, "category_id": 2, "bbox": [1, 1, 9, 9], "score": score}
        for i, score in enumerate(given)
    ]
    write_coco(tmp_path, raw)
    record = open_dataset(tmp_path, "val").records[0]
    assert record.scores.tolist() == expected
    assert record.scores.dtype == np.float32
    kept = record.keep(np.arange(len(given)) % 2 == 1, record.labels)
    assert kept.scores.tolist() == expected[1::2]


def test_yolo_keeps_the_scores_of_labels(tmp_path: Path) -> None:
    given = ["0.25", "1", "", "0.5", "nan", "-1", "7", "0", "inf", "1e-3"]
    expected = np.float32([0.25, 1, 1, 0.5, 1, 1, 1, 1, 1, 1e-3])
    lines = [f"{i % 2} 0.5 0.5 0.2 {0.1 + i / 20} {score}\n" for i, score in enumerate(given)]
    lines.append("1 0.5 0.5 0.2 0.25 0.75\n")  # The box of the 0.5 once more.
    data = open_dataset(write_yolo(tmp_path, {"a": "".join(lines), "b": "0 .5 .5 .1 .1"}), "train")
    first, second = data.records
    assert first.scores.tolist() == expected.tolist()
    assert first.scores.dtype == np.float32
    assert second.scores.tolist() == [1]
    assert data.report.counts["labels with a sixth column, taken as their score"] == 10
    assert not data.report.faults


def test_classes_merge_where_the_first_one_was(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = open_dataset(tmp_path, "val")
    data = dataclasses.replace(
        data, class_names=("cat", "car", "dog", "bus"), category_ids=(3, 5, 7, 9)
    )
    record = dataclasses.replace(data.records[0], labels=np.array([0, 1, 2, 3]))
    data = dataclasses.replace(data, records=(record,))
    merged = data.merge_classes({"vehicle": ["bus", "car"]})
    assert merged.class_names == ("cat", "vehicle", "dog")
    assert merged.category_ids == (3, 5, 7)
    assert merged.records[0].labels.tolist() == [0, 1, 2, 1]
    both = data.merge_classes({"vehicle": ["car", "bus"], "cat": ["cat", "dog"]})
    assert both.class_names == ("cat", "vehicle")
    assert both.records[0].labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"vehicle": ["car", "tram"]}, "no such class"),
        ({"a": ["car"], "b": ["car"]}, "a class of two groups"),
        ({"cat": ["car", "bus"]}, "already has a class"),
    ],
)
def test_classes_that_cannot_merge(tmp_path: Path, groups: dict[str, list[str]], says: str) -> None:
    write_coco(tmp_path)
    data = dataclasses.replace(
        open_dataset(tmp_path, "val"), class_names=("cat", "car", "bus"), category_ids=(1, 2, 3)
    )
    with pytest.raises(InvalidValueError, match=says):
        data.merge_classes(groups)
