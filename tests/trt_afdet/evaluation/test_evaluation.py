"""AP and confusion against numbers worked by hand and against a slow plain reference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_afdet.datasets import Dataset, Record
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError, MissingDependencyError
from trt_afdet.evaluation import confusion_matrix, evaluate_coco, evaluate_voc, predict
from trt_afdet.evaluation.matching import pairwise_iou
from trt_afdet.evaluation.voc import average_precision

NAMES = ("cat", "dog")
NAN = float("nan")

#: Two cats; a right, a wrong and a right detection in order of confidence.
CATS = [([0, 0, 40, 40], 0), ([100, 100, 150, 150], 0)]
HITS = [([0, 0, 40, 40], 0.9, 0), ([200, 0, 240, 40], 0.8, 0), ([100, 100, 150, 150], 0.7, 0)]


def record(
    objects: list[tuple[list[float], int]],
    image_id: int = 1,
    *,
    difficult: list[bool] | None = None,
    crowd: list[bool] | None = None,
) -> Record:
    return Record.build(
        Path(f"{image_id}.png"),
        image_id,
        300,
        300,
        np.array([b for b, _ in objects], np.float32).reshape(-1, 4),
        [c for _, c in objects],
        difficult=difficult,
        crowd=crowd,
    )


def dataset(*records: Record) -> Dataset:
    return Dataset("hand-made", NAMES, records, (1, 2))


def found(objects: list[tuple[list[float], float, int]]) -> Detections:
    return Detections(
        np.array([b for b, _, _ in objects], np.float32).reshape(-1, 4),
        np.array([s for _, s, _ in objects], np.float32),
        np.array([c for _, _, c in objects], np.int32),
        NAMES,
    )


def perfect(one: Record) -> Detections:
    count = len(one.boxes)
    confidence = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Detections(one.boxes, confidence, one.labels.astype(np.int32), NAMES)


# By hand


def test_coco_ap_by_hand() -> None:
    result = evaluate_coco(dataset(record(CATS)), [found(HITS)])
    # Precision 1 at the 51 recalls up to .5, then 2/3 at the other 50, at every IoU.
    expected = (51 + 50 * 2 / 3) / 101
    assert result.ap == pytest.approx(expected, abs=1e-9)
    assert result.ap50 == pytest.approx(expected, abs=1e-9)
    assert result.ap_medium == pytest.approx(expected, abs=1e-9)
    assert np.isnan([result.ap_small, result.ap_large]).all()
    assert result.ar == 1.0
    cat, dog = result.classes
    assert (cat.name, cat.truths, cat.ap50) == ("cat", 2, pytest.approx(expected))
    np.testing.assert_allclose(cat.precision, [1] * 51 + [2 / 3] * 50)
    assert dog.truths == 0
    assert np.isnan(dog.ap)


def test_coco_ap_falls_with_the_iou() -> None:
    # IoU 32/40 = .8: right at .50 .. .80, seven of ten thresholds.
    result = evaluate_coco(
        dataset(record([([0, 0, 40, 40], 0)])), [found([([0, 0, 40, 32], 0.9, 0)])]
    )
    assert result.ap == pytest.approx(0.7)
    assert (result.ap50, result.ap75) == (1.0, 1.0)


def test_coco_wrong_class_is_wrong() -> None:
    result = evaluate_coco(
        dataset(record([([0, 0, 40, 40], 0), ([50, 50, 90, 90], 1)])),
        [found([([0, 0, 40, 40], 0.9, 1), ([50, 50, 90, 90], 0.8, 1)])],
    )
    assert result.classes[0].ap50 == 0.0
    assert result.classes[1].ap50 == pytest.approx(0.5)  # one wrong above the right one
    assert result.ap50 == pytest.approx(0.25)


def test_sizes_follow_the_area_of_the_mask() -> None:
    one = record([([0, 0, 40, 40], 0)])  # a medium box ...
    one.area[:] = 500.0  # ... around a small object
    result = evaluate_coco(dataset(one), [perfect(one)])
    assert result.ap_small == 1.0
    assert np.isnan(result.ap_medium)


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_ignored_truth_counts_neither_way(flag: str) -> None:
    truth = dataset(record(CATS, **{flag: [False, True]}))
    for detections in ([found(HITS[:1])], [found([HITS[2], HITS[0]])]):
        assert evaluate_coco(truth, detections).ap == 1.0
        assert evaluate_coco(truth, detections).classes[0].truths == 1
        voc = evaluate_voc(truth, detections)
        assert (voc.map_11, voc.map_continuous) == (1.0, 1.0)
        matrix = confusion_matrix(truth, detections)
        assert matrix.sum() == matrix[0, 0] == 1


def test_voc_ap_by_hand() -> None:
    voc = evaluate_voc(dataset(record(CATS)), [found(HITS)])
    assert voc.ap_continuous[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    # Recalls 0 to .5 have precision 1, .6 to 1 have 2/3.
    assert voc.ap_11[0] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert np.isnan(voc.ap_11[1])
    assert voc.map_11 == voc.ap_11[0]


def test_voc_second_detection_of_an_object_is_wrong() -> None:
    twice = [HITS[0], ([0, 0, 40, 39], 0.8, 0), HITS[2]]
    voc = evaluate_voc(dataset(record(CATS)), [found(twice)])
    assert voc.ap_continuous[0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_voc_order_is_over_all_pictures() -> None:
    truth = dataset(record(CATS[:1]), record(CATS[1:], 2))
    # The wrong detection of the second picture is surer than the right one of the first.
    results = [found([([0, 0, 40, 40], 0.6, 0)]), found([([0, 0, 9, 9], 0.9, 0)])]
    assert evaluate_voc(truth, results).ap_continuous[0] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("correct", "truths", "eleven", "area"),
    [
        ([], 3, 0.0, 0.0),
        ([True], 1, 1.0, 1.0),
        ([False, True], 1, 0.5, 0.5),
        ([True], 2, 6 / 11, 0.5),
        ([False, False], 2, 0.0, 0.0),
        ([True, False, True, False], 4, (3 + 3 * 2 / 3) / 11, 0.25 + 0.25 * 2 / 3),
    ],
)
def test_average_precision_by_hand(
    correct: list[bool], truths: int, eleven: float, area: float
) -> None:
    array = np.array(correct, bool)
    assert average_precision(array, truths, eleven_points=True) == pytest.approx(eleven)
    assert average_precision(array, truths, eleven_points=False) == pytest.approx(area)


def test_confusion_by_hand() -> None:
    truth = dataset(record([*CATS, ([200, 200, 250, 250], 1)]), record([], 2))
    first = found(
        [
            ([0, 0, 40, 40], 0.9, 0),  # right
            ([100, 100, 150, 150], 0.8, 1),  # a cat taken for a dog
            ([100, 100, 150, 148], 0.7, 0),  # its partner is gone already: background
            ([200, 200, 250, 250], 0.3, 1),  # not sure enough: the dog is missed
        ]
    )
    second = found([([5, 5, 20, 20], 0.5, 1)])
    matrix = confusion_matrix(truth, [first, second])
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 0, 1], [1, 1, 0]])


def test_pairwise_iou_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 15, 15]], np.float32)
    b = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [5, 0, 10, 10]], np.float32)
    expected = [[1, 0, 0.5], [25 / 175, 0, 25 / 125]]
    np.testing.assert_allclose(pairwise_iou(a, b), expected)
    assert pairwise_iou(a, b[:0]).shape == (2, 0)


# Nothing there


def test_no_detections_is_zero() -> None:
    truth = dataset(record(CATS), record([], 2))
    empty = [Detections.empty(NAMES)] * 2
    result = evaluate_coco(truth, empty)
    assert (result.ap, result.ap50, result.ap75, result.ar) == (0, 0, 0, 0)
    # The very figures that the library gives when the only detection is wrong.
    wrong = evaluate_coco(truth, [empty[0], found([([0, 0, 9, 9], 0.9, 0)])])
    np.testing.assert_equal(result.metrics(), wrong.metrics())
    assert [c.truths for c in result.classes] == [2, 0]
    assert evaluate_voc(truth, empty).map_11 == 0.0
    np.testing.assert_array_equal(confusion_matrix(truth, empty), [[0, 0, 2], [0] * 3, [0] * 3])


@pytest.mark.parametrize("objects", [[], [([0.0, 0.0, 9.0, 9.0], 0.9, 0)]])
def test_no_truth_is_undefined(objects: list[tuple[list[float], float, int]]) -> None:
    truth = dataset(record([]))
    result = evaluate_coco(truth, [found(objects)])
    assert all(np.isnan(v) for v in result.metrics().values())
    assert np.isnan(evaluate_voc(truth, [found(objects)]).map_11)


def test_one_result_per_picture() -> None:
    truth = dataset(record(CATS), record([], 2))
    for evaluate in (evaluate_coco, evaluate_voc, confusion_matrix):
        with pytest.raises(InvalidValueError, match=r"one result per picture \(got 1 for 2\)"):
            evaluate(truth, [found(HITS)])


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "trt-afdet\[runtime\]"'):
        evaluate_coco(dataset(record(CATS)), [found(HITS)])


# Properties


def _boxes(draw: st.DrawFn, count: int) -> list[list[float]]:
    side = st.integers(0, 250)
    extent = st.integers(8, 50)
    corners = [(draw(side), draw(side), draw(extent), draw(extent)) for _ in range(count)]
    return [[x, y, x + w, y + h] for x, y, w, h in corners]


@st.composite
def truths(draw: st.DrawFn) -> Dataset:
    records = []
    for image_id in range(draw(st.integers(1, 3))):
        boxes = _boxes(draw, draw(st.integers(0, 4)))
        boxes = list({tuple(b): b for b in boxes}.values())
        records.append(record([(b, draw(st.integers(0, 1))) for b in boxes], image_id))
    return dataset(*records)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Dataset, list[Detections]]:
    """Truth, and detections that are the truth moved a little, relabelled, or anywhere."""
    truth = draw(truths())
    results = []
    for one in truth.records:
        boxes = [
            [v + draw(st.integers(-6, 6)) for v in box]
            for box in one.boxes.tolist()
            if draw(st.booleans())
        ]
        boxes = [b for b in boxes if b[2] > b[0] and b[3] > b[1]]
        boxes += _boxes(draw, draw(st.integers(0, 2)))
        results.append([(b, 0.0, draw(st.integers(0, 1))) for b in boxes])
    total = sum(map(len, results))
    # Distinct confidences: the order of ties is nobody's definition.
    scores = iter(draw(st.permutations([0.1 + 0.8 * i / max(1, total) for i in range(total)])))
    return truth, [found([(b, next(scores), c) for b, _, c in one]) for one in results]


def reference_ap(truth: Dataset, results: list[Detections], index: int, iou: float) -> float:
    """COCO's AP of a class at an IoU: loops, straight from its definition, without ignored."""
    everything = sorted(
        (
            (-float(score), picture, row)
            for picture, one in enumerate(results)
            for row, (score, class_id) in enumerate(zip(one.confidence, one.class_id, strict=True))
            if class_id == index
        ),
    )
    total = sum(int((r.labels == index).sum()) for r in truth.records)
    if total == 0:
        return NAN
    taken: set[tuple[int, int]] = set()
    points = []
    right = 0
    for rank, (_, picture, row) in enumerate(everything, 1):
        one = truth.records[picture]
        overlaps = pairwise_iou(results[picture].xyxy[row : row + 1], one.boxes)[0]
        best, best_overlap = -1, iou - 1e-10
        for column, overlap in enumerate(overlaps):
            free = one.labels[column] == index and (picture, column) not in taken
            if free and overlap >= best_overlap:
                best, best_overlap = column, overlap
        if best >= 0:
            taken.add((picture, best))
            right += 1
        points.append((right / total, right / rank))
    steps = [i / 100 for i in range(101)]
    at = [max((p for r, p in points if r >= s - 1e-12), default=0.0) for s in steps]
    return sum(at) / 101


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_coco_agrees_with_the_plain_reference(scene: tuple[Dataset, list[Detections]]) -> None:
    truth, results = scene
    result = evaluate_coco(truth, results)
    for index, one in enumerate(result.classes):
        assert one.ap50 == pytest.approx(reference_ap(truth, results, index, 0.5), nan_ok=True)
        thresholds = [0.5 + 0.05 * i for i in range(10)]
        per_iou = [reference_ap(truth, results, index, t) for t in thresholds]
        assert one.ap == pytest.approx(np.mean(per_iou), nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(truths())
def test_perfect_detections_score_one(truth: Dataset) -> None:
    results = [perfect(r) for r in truth.records]
    expected = 1.0 if any(len(r.boxes) for r in truth.records) else NAN
    result = evaluate_coco(truth, results)
    for value in (result.ap, result.ap50, result.ap75, result.ar):
        assert value == pytest.approx(expected, nan_ok=True)
    voc = evaluate_voc(truth, results)
    assert (voc.map_11, voc.map_continuous) == pytest.approx((expected, expected), nan_ok=True)
    matrix = confusion_matrix(truth, results)
    assert matrix.sum() == np.trace(matrix)


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_confusion_counts_everything_once(scene: tuple[Dataset, list[Detections]]) -> None:
    truth, results = scene
    matrix = confusion_matrix(truth, results, conf=0.0)
    labels = np.concatenate([r.labels for r in truth.records])
    classes = np.concatenate([d.class_id for d in results])
    np.testing.assert_array_equal(matrix[:2].sum(axis=1), np.bincount(labels, minlength=2))
    np.testing.assert_array_equal(matrix[:, :2].sum(axis=0), np.bincount(classes, minlength=2))


# Running a detector


def test_predict_goes_in_order_and_in_batches(tmp_path: Path) -> None:
    import cv2

    records = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), np.full((10, 10, 3), 40 * index, np.uint8))
        records.append(Record.build(path, index, 10, 10, np.zeros((0, 4), np.float32), []))
    sizes: list[int] = []
    shown: list[tuple[int, str]] = []

    def detector(frames: list[np.ndarray]) -> list[Detections]:
        sizes.append(len(frames))
        return [found([([0, 0, 1, 1], frame.mean() / 255, 0)]) for frame in frames]

    def progress(items, total, text):  # type: ignore[no-untyped-def]
        shown.append((total, text))
        return items

    results = predict(dataset(*records), detector, batch=2, progress=progress)  # type: ignore[arg-type]
    assert sizes == [2, 2, 1]
    assert shown == [(5, "evaluating")]
    np.testing.assert_allclose(
        [d.confidence[0] for d in results], np.arange(5) * 40 / 255, atol=1e-6
    )
