"""A tracker and zones on somebody's own loop: no pipeline, no file, no camera."""

from __future__ import annotations

import numpy as np
import pytest

from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.analysis.tracking import Tracker, TrackOptions
from trt_afdet.stream.analysis.zones import (
    LineCrossed,
    ObjectEntered,
    ObjectLeft,
    ZoneOptions,
    Zones,
)

LEFT = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
NAMES = ("person", "car")


def found_at(x: float, confidence: float = 0.9, class_id: int = 0) -> Detections:
    """One object, 40 x 80 pixels, whose feet are at (x, 300) of a picture of 640 x 480."""
    box = np.array([[x - 20, 220, x + 20, 300]], np.float32)
    return Detections(box, np.array([confidence]), np.array([class_id]), NAMES)


def test_walking_out_of_a_zone_and_over_a_line() -> None:
    tracker = Tracker()
    zones = Zones({"left half": LEFT}, {"middle": [(320, 480), (320, 0)]}, size=(640, 480))
    events = []
    for step in range(40):
        tracked = tracker.update(found_at(200 + 6 * step), step / 30)
        events += zones.update(tracked, step / 30)
        if step == 10:
            assert zones.counts == {"left half": 1}
    entered, left, crossed = (
        [event for event in events if isinstance(event, kind)]
        for kind in (ObjectEntered, ObjectLeft, LineCrossed)
    )
    assert [(e.zone, e.class_name) for e in entered] == [("left half", "person")]
    assert [(e.zone, e.track_id) for e in left] == [("left half", entered[0].track_id)]
    assert [(e.line, e.direction) for e in crossed] == [("middle", "in")]
    assert 0.6 < left[0].seconds < 0.9
    assert left[0].wall_time == pytest.approx(0.7, abs=0.1)
    assert zones.counts == {"left half": 0}
    assert zones.crossings == {"middle": (1, 0)}


def test_the_clock_is_used_where_no_time_is_given() -> None:
    tracker, zones = Tracker(), Zones({"left half": LEFT}, size=(640, 480))
    events = []
    for _ in range(5):
        events += zones.update(tracker.update(found_at(200)))
    assert [event.kind for event in events] == ["enter", "count"]
    assert events[0].wall_time > 1.7e9


def test_polygons_in_pixels_need_no_size_and_may_be_arrays() -> None:
    zones = Zones({"left half": np.array([[0, 0], [320, 0], [320, 480], [0, 480]])})
    tracker = Tracker(TrackOptions(confirm=1))
    for step in range(5):
        zones.update(tracker.update(found_at(200), step / 30), step / 30)
    assert zones.counts == {"left half": 1}


def test_only_some_classes_count() -> None:
    tracker, zones = Tracker(), Zones({"left half": LEFT}, size=(640, 480), classes=["person"])
    for step in range(5):
        assert not zones.update(tracker.update(found_at(200, class_id=1), step / 30), step / 30)


def test_weak_objects_start_no_track_but_carry_one_on() -> None:
    tracker = Tracker(conf=0.5)
    tracks = [
        tracker.update(found_at(200, confidence), step / 30).tracks
        for step, confidence in enumerate([0.2, 0.2, 0.2, 0.9, 0.9, 0.2, 0.2])
    ]
    assert tracks[:3] == [[None]] * 3
    assert tracks[4] == tracks[5] == tracks[6] != [None]


def test_a_frame_without_objects() -> None:
    tracker, zones = Tracker(), Zones({"left half": LEFT}, size=(640, 480))
    nothing = tracker.update(Detections.empty(NAMES), 0.0)
    assert (len(nothing), zones.update(nothing, 0.0)) == (0, ())
    assert zones.update(Detections.empty(NAMES), 0.1) == ()


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidValueError, match=r"need its size - size=\(width, height\)"):
        Zones({"left half": LEFT}).update(Tracker().update(found_at(200)))
    with pytest.raises(InvalidValueError, match=r"tracked objects - Tracker\(\)\.update"):
        Zones({"left half": LEFT}, size=(640, 480)).update(found_at(200))
    with pytest.raises(InvalidValueError, match="at least 3 corners"):
        Zones({"left half": LEFT[:2]})
    with pytest.raises(InvalidValueError, match="two different points"):
        Zones(lines={"gate": LEFT})
    with pytest.raises(InvalidValueError, match="anchor must be one of bottom"):
        ZoneOptions(anchor="feet")
