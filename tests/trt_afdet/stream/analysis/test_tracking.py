"""Numbers stay with their objects: crossings, gaps, weak detections, frames without detection."""

from __future__ import annotations

import numpy as np
import pytest

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.analysis.tracking import Tracker, TrackOptions
from trt_afdet.stream.sources.test_pattern import Pattern, boxes_at

NAMES = ("a", "b")


def objects(boxes: object, confidence: float = 0.9, class_id: int = 0) -> Detections:
    place = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(place)
    return Detections(
        place, np.full(count, confidence, np.float32), np.full(count, class_id), NAMES
    )


def feed(tracker: Tracker, boxes: object, moment: float, strong: bool = True) -> list[int | None]:
    found = objects(boxes)
    return tracker.update(found, moment, strong=np.full(len(found), strong)).tracks


@pytest.mark.parametrize(("fps", "every"), [(30, 1), (30, 3), (10, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_crossing_objects_keep_their_numbers(fps: int, every: int, seed: int) -> None:
    pattern = Pattern(objects=5, seed=seed)
    tracker = Tracker()
    overlaps = 0
    numbers: dict[int, set[int]] = {index: set() for index in range(5)}
    for step in range(0, 900, every * 30 // fps):
        boxes = boxes_at(pattern, step)
        for index, number in enumerate(feed(tracker, boxes, step / 30)):
            if number is not None:
                numbers[index].add(number)
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        overlaps += int(((high > low).all(axis=2).sum() - 5) > 0)
    assert overlaps > 5, "the pattern does not cross: it tests nothing"
    assert [len(seen) for seen in numbers.values()] == [1] * 5
    assert len(set.union(*numbers.values())) == 5


def test_the_order_of_the_detections_does_not_matter_and_is_kept() -> None:
    rng = np.random.default_rng(0)
    tracker, pattern = Tracker(), Pattern(objects=6, seed=2)
    numbers: dict[int, set[int]] = {index: set() for index in range(6)}
    for step in range(200):
        order = rng.permutation(6)
        boxes = boxes_at(pattern, step)[order]
        found = tracker.update(objects(boxes), step / 30)
        assert np.array_equal(found.xyxy, boxes)
        for index, number in zip(order.tolist(), found.tracks, strict=True):
            if number is not None:
                numbers[index].add(number)
    assert all(len(seen) == 1 for seen in numbers.values())


def test_a_number_comes_with_the_second_sighting() -> None:
    tracker = Tracker()
    assert feed(tracker, [[10, 10, 50, 50]], 0.0) == [None]
    assert feed(tracker, [[10, 10, 50, 50]], 0.1) == [1]
    # Something seen once is not a track.
    assert feed(tracker, [[10, 10, 50, 50], [200, 200, 240, 240]], 0.2) == [1, None]
    assert feed(tracker, [[10, 10, 50, 50]], 0.3) == [1]
    assert tracker.next_id == 2


def test_weak_detections_carry_a_track_on_but_start_none() -> None:
    tracker = Tracker()
    box = [[10, 10, 50, 50]]
    for moment in (0.0, 0.1, 0.2):
        assert feed(tracker, box, moment, strong=False) == [None]
    feed(tracker, box, 0.3)
    assert feed(tracker, box, 0.4) == [1]
    for moment in (0.5, 0.6, 0.7):
        assert feed(tracker, box, moment, strong=False) == [1]


def test_a_hidden_object_comes_back_as_itself_until_it_is_lost() -> None:
    for hidden, same in ((0.8, True), (1.5, False)):
        tracker = Tracker(TrackOptions(lost=1.0))
        moment = 0.0
        for _ in range(5):
            feed(tracker, [[10, 10, 50, 50]], moment)
            moment += 0.1
        end = moment + hidden
        while moment < end:
            feed(tracker, [], moment)
            moment += 0.1
        feed(tracker, [[10, 10, 50, 50]], moment)
        assert (feed(tracker, [[10, 10, 50, 50]], moment + 0.1) == [1]) is same


@pytest.mark.parametrize("jump", [6.0, -1.0, 3600.0])
def test_a_long_gap_or_a_jump_back_ends_all_tracks_and_no_number_comes_twice(jump: float) -> None:
    tracker = Tracker(TrackOptions(reset_after=5.0))
    box = [[10, 10, 50, 50], [100, 100, 150, 150]]
    feed(tracker, box, 10.0)
    assert feed(tracker, box, 10.1) == [1, 2]
    feed(tracker, box, 10.1 + jump)
    assert feed(tracker, box, 10.2 + jump) == [3, 4]
    assert tracker.resets == 1


def test_numbers_stay_through_everything_that_is_done_with_detections() -> None:
    place = objects([[0, 0, 9, 9], [20, 20, 40, 40], [1, 1, 5, 5]])
    columns = (place.xyxy, place.confidence, place.class_id, NAMES)
    found = Detections(*columns, np.array([4, -1, 6]))
    assert found.tracks == [4, None, 6]
    assert found[[2, 1]].tracks == [6, None]
    assert found[found.xyxy[:, 0] < 10].tracks == [4, 6]
    assert (found[0].tracker_id, found[1].tracker_id) == (4, None)
    assert [item.tracker_id for item in found] == [4, None, 6]
    assert [item["tracker_id"] for item in found.to_dicts()] == [4, None, 6]
    assert "tracker_id" not in place.to_dicts()[0]
    assert found.to_supervision().tracker_id.tolist() == [4, -1, 6]
    assert place.to_supervision().tracker_id is None
    frame = np.zeros((200, 200, 3), np.uint8)
    assert (found.draw(frame) != place.draw(frame)).any()
    with pytest.raises(InvalidValueError, match="as many tracker ids"):
        Detections(*columns, np.array([1]))


def test_numbers_of_two_sources_are_independent() -> None:
    box = [[10, 10, 50, 50]]
    one, two = Tracker(), Tracker(first_id=100)
    for moment in (0.0, 0.1):
        numbers = feed(one, box, moment), feed(two, box, moment)
    assert numbers == ([1], [100])


def test_two_frames_of_one_moment_are_no_trouble(recwarn: pytest.WarningsRecorder) -> None:
    tracker = Tracker()
    for moment in (3.0, 3.0, 3.0, 3.1, 3.05, 3.2):
        numbers = feed(tracker, [[10, 10, 50, 50]], moment)
    assert numbers == [1]
    assert tracker.resets == 0
    assert not recwarn.list


def test_boxes_are_carried_on_at_their_speed() -> None:
    tracker = Tracker()
    speed = np.array([60.0, 30.0, 60.0, 30.0])  # Pixels per second.
    start = np.array([100.0, 100.0, 140.0, 160.0])
    for step in range(30):
        found = objects([start + speed * step / 30], confidence=0.7, class_id=1)
        tracker.update(found, step / 30)
    for ahead in (0.0, 0.1, 0.2):
        moment = 29 / 30 + ahead
        carried = tracker.carry(moment, NAMES, 640, 480)
        assert carried.tracks == [1]
        assert carried.names == ["b"]
        assert carried.confidence == pytest.approx(0.7)
        assert carried.xyxy[0] == pytest.approx(start + speed * moment, abs=1.0)
    # Carrying changes nothing: the next detection finds its track.
    assert feed(tracker, [start + speed], 1.0) == [1]


def test_what_was_not_seen_last_time_is_not_carried_and_boxes_end_at_the_picture() -> None:
    tracker = Tracker()
    both = [[0, 10, 40, 50], [200, 200, 250, 250]]
    assert len(tracker.carry(0.0, NAMES, 640, 480)) == 0
    for step in range(5):
        place = np.array(both, np.float32) - [[20 * step, 0, 20 * step, 0], [0, 0, 0, 0]]
        feed(tracker, place, step / 30)
    carried = tracker.carry(4 / 30, NAMES, 640, 480)
    assert sorted(n for n in carried.tracks if n) == [2]  # The first has left the picture.
    feed(tracker, [], 5 / 30)
    assert len(tracker.carry(6 / 30, NAMES, 640, 480)) == 0


def test_carried_boxes_are_cut_at_the_sides() -> None:
    tracker = Tracker()
    for step in range(10):
        feed(tracker, [[600 + 3 * step, 440, 630 + 3 * step, 470]], step / 30)
    (box,) = tracker.carry(12 / 30, NAMES, 640, 480).xyxy
    assert box[2] == 640
    assert 620 < box[0] < 640


@pytest.mark.parametrize(
    "values",
    [{"low": 1.5}, {"overlap": -1}, {"confirm": 0}, {"lost": 0}, {"reset_after": float("nan")}],
)
def test_bad_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(values))):
        TrackOptions(**values)  # type: ignore[arg-type]
