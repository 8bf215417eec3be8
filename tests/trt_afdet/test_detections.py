"""Detections: indexing, conversions, drawing."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from trt_afdet.detections import Detection, Detections
from trt_afdet.draw import class_color, text_color
from trt_afdet.errors import InvalidValueError, MissingDependencyError

NAMES = ("imp", "zombie", "barrel")


@pytest.fixture
def found() -> Detections:
    return Detections(
        [[10, 20, 30, 60], [0.5, 1, 2, 3], [5, 5, 9, 9]], [0.9, 0.5, 0.25], [2, 0, 2], NAMES
    )


def test_arrays_have_the_promised_types(found: Detections) -> None:
    assert found.xyxy.dtype == np.float32
    assert found.confidence.dtype == np.float32
    assert found.class_id.dtype == np.int32
    assert found.names == ["barrel", "imp", "barrel"]


def test_indexing_and_iterating(found: Detections) -> None:
    assert found[1] == Detection((0.5, 1.0, 2.0, 3.0), 0.5, 0, "imp")
    assert found[-1].name == "barrel"
    assert list(found) == [found[i] for i in range(3)]
    assert len(found[:2]) == 2
    assert found[found.confidence > 0.4].names == ["barrel", "imp"]
    assert found[[2, 1]].confidence.tolist() == [0.25, 0.5]
    assert len(found[[]]) == 0
    assert found[np.zeros(3, bool)].xyxy.shape == (0, 4)
    with pytest.raises(IndexError):
        found[3]


def test_empty() -> None:
    none = Detections.empty(NAMES)
    assert len(none) == 0
    assert list(none) == none.to_dicts() == none.to_coco(1) == none.names == []


def test_lengths_and_ids_are_checked() -> None:
    with pytest.raises(InvalidValueError, match="equally many"):
        Detections(np.zeros((2, 4)), np.zeros(1), np.zeros(2), NAMES)
    for bad in (3, -1):
        with pytest.raises(InvalidValueError, match=r"class ids must be within 0\.\.2"):
            Detections(np.zeros((1, 4)), np.zeros(1), np.array([bad]), NAMES)


def test_json(found: Detections) -> None:
    first = json.loads(found.to_json())[0]
    want = {"box": [10.0, 20.0, 30.0, 60.0], "confidence": 0.9, "class_id": 2, "class": "barrel"}
    assert first == want


def test_coco_counts_from_one_unless_told(found: Detections) -> None:
    entry = found.to_coco(7)[0]
    assert entry["bbox"] == [10.0, 20.0, 20.0, 40.0]
    assert (entry["image_id"], entry["category_id"]) == (7, 3)
    assert [e["category_id"] for e in found.to_coco(7, [5, 6, 90])] == [90, 5, 90]
    with pytest.raises(InvalidValueError, match="one id for each of 3"):
        found.to_coco(7, [1, 2])


@pytest.mark.skipif(
    importlib.util.find_spec("supervision") is None,
    reason="supervision is not installed: pip install -e .[track]",
)
def test_supervision(found: Detections) -> None:
    converted = found.to_supervision()
    np.testing.assert_array_equal(converted.xyxy, found.xyxy)
    assert converted.data["class_name"].tolist() == found.names


@pytest.mark.skipif(
    importlib.util.find_spec("supervision") is not None,
    reason="supervision is installed: a run without it",
)
def test_without_supervision_the_hint_says_how_to_get_it(found: Detections) -> None:
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        found.to_supervision()


def test_draw_marks_a_copy(found: Detections) -> None:
    frame = np.zeros((120, 160, 3), np.uint8)
    drawn = found.draw(frame)
    assert not frame.any()
    assert drawn.shape == frame.shape
    assert tuple(drawn[40, 10]) == class_color(2)  # The first box's left edge.
    assert not drawn[40, 20].any()  # Its inside.


def test_draw_takes_boxes_at_and_over_the_edge_and_views() -> None:
    boxes = Detections(
        [[-5, -5, 400, 300], [159, 0, 160, 1], [0, 119, 160, 120]], [1, 1, 1], [0, 1, 2], NAMES
    )
    whole = np.zeros((120, 320, 3), np.uint8)
    assert boxes.draw(whole[:, ::2]).shape == (120, 160, 3)
    assert not whole.any()
    assert Detections.empty(NAMES).draw(whole).shape == whole.shape


def test_colours_are_stable_distinct_and_readable() -> None:
    colors = [class_color(i) for i in range(20)]
    assert colors == [class_color(i) for i in range(20)]
    assert len(set(colors)) == 20
    assert text_color((255, 255, 255)) == (0, 0, 0)
    assert text_color((120, 0, 0)) == (255, 255, 255)
