"""Filters, tracking and zones together, and as part of a pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tests.trt_afdet.stream.detectors import FunctionDetector, SyncDetector
from tests.waiting import LIMIT, wait_until
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.analysis.filters import FilterOptions
from trt_afdet.stream.analysis.per_source import AnalysisOptions, SourceAnalysis
from trt_afdet.stream.analysis.shapes import parse_shapes
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.analysis.zones import ZoneOptions
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec
from trt_afdet.stream.sources.test_pattern import Pattern, TestPatternSource, boxes_at

NAMES = ("a", "b")
IMAGE = np.zeros((480, 640, 3), np.uint8)
WHOLE = parse_shapes({"zones": [{"name": "all", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]}]})


def frame(sequence: int, moment: float, position: float | None = None) -> StreamFrame:
    return StreamFrame("cam", sequence, IMAGE, moment, 1e9 + moment, position)


def found(*confidences: float) -> Detections:
    boxes = [[60 * i + 5, 10, 60 * i + 45, 80] for i in range(len(confidences))]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(confidences, np.float32),
        np.zeros(len(confidences)),
        NAMES,
    )


class Exact(SyncDetector):
    """Finds the pattern's objects where they are."""

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._background = TestPatternSource("test://?objects=0")
        self.seen = 0

    def __call__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        # The frames come in order and none is left out: their number is known.
        results = []
        for _ in frames:
            boxes = boxes_at(self._pattern, self.seen)
            count = len(boxes)
            results.append(Detections(boxes, np.full(count, 0.9), np.zeros(count), NAMES))
            self.seen += 1
        return results


class Memory:
    durable = True
    name = "memory"

    def __init__(self) -> None:
        self.results: list[StreamResult] = []

    def open(self) -> None:
        """Nothing to open."""

    def write(self, result: StreamResult) -> None:
        self.results.append(result)

    def status(self, event: StatusEvent) -> None:
        """Not looked at."""

    def close(self) -> None:
        """Nothing to close."""


def test_without_tracking_only_the_filters_work() -> None:
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(FilterOptions(conf=0.5)))
    for sequence in range(3):
        assert analysis.wants_detector(frame(sequence, sequence))
        kept, events = analysis.apply(frame(sequence, sequence), found(0.9, 0.4, 0.5))
        assert kept.confidence.tolist() == pytest.approx([0.9, 0.5])
        assert kept.tracker_id is None
        assert events == ()
    assert analysis._tracker is None


def test_weak_detections_are_reported_only_as_part_of_a_track() -> None:
    analysis = SourceAnalysis(
        "cam", NAMES, AnalysisOptions(FilterOptions(conf=0.5), TrackOptions(low=0.1))
    )
    tracks = []
    for step, confidences in enumerate([(0.9, 0.2), (0.9, 0.2), (0.3, 0.2), (0.9, 0.2)]):
        kept, _ = analysis.apply(frame(step, step / 10), found(*confidences))
        tracks.append(kept.tracks)
    assert tracks == [[None], [1], [1], [1]]


def test_every_third_frame_is_detected_and_the_rest_carried() -> None:
    pattern = Pattern(objects=3, seed=4)
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(every=3))
    asked = []
    for index in range(60):
        one = frame(index, index / 30)
        wanted = analysis.wants_detector(one)
        asked.append(wanted)
        boxes = boxes_at(pattern, index)
        seen = Detections(boxes, np.full(3, 0.9), np.zeros(3), NAMES) if wanted else None
        kept, _ = analysis.apply(one, seen)
        if index > 12 and not wanted:
            assert sorted(n for n in kept.tracks if n) == [1, 2, 3]
            order = np.argsort(kept.tracker_id)
            assert kept.xyxy[order] == pytest.approx(boxes, abs=20)
    assert asked == [True, False, False] * 20


def test_a_file_has_its_own_time() -> None:
    # Read in no time at all, or with an hour's pause: the positions are a tenth apart.
    for pace in (0.0, 3600.0):
        analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(track=TrackOptions(lost=0.5)))
        tracks = [
            analysis.apply(frame(step, step * pace, position=step / 10), found(0.9))[0].tracks
            for step in range(5)
        ]
        assert tracks == [[None], [1], [1], [1], [1]]


def test_zones_make_it_track_and_events_come_out() -> None:
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(zones=ZoneOptions(confirm=1)), WHOLE)
    assert analysis._tracker is not None
    analysis.apply(frame(0, 0.0), found(0.9))
    _, events = analysis.apply(frame(1, 0.1), found(0.9))
    assert [type(event).__name__ for event in events] == ["ObjectEntered", "ZoneCount"]


def test_zones_drawn_later_start_the_tracking() -> None:
    analysis = SourceAnalysis("cam", NAMES)
    assert analysis.apply(frame(0, 0.0), found(0.9))[0].tracker_id is None
    analysis.set_shapes(WHOLE)
    assert analysis.shapes == WHOLE
    kept, _ = analysis.apply(frame(1, 0.1), found(0.9))
    assert kept.tracker_id is not None


def test_other_options_take_effect_and_tracks_live_on() -> None:
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(track=TrackOptions()))
    for step in range(3):
        kept, _ = analysis.apply(frame(step, step / 10), found(0.9, 0.8))
    assert kept.tracks == [1, 2]
    analysis.replace(AnalysisOptions(FilterOptions(conf=0.85), TrackOptions()))
    kept, _ = analysis.apply(frame(3, 0.3), found(0.9, 0.8))
    assert kept.tracks == [1, 2]  # Weak now, but its track exists.
    analysis.replace(AnalysisOptions(FilterOptions(conf=0.85), TrackOptions(low=0.2)))
    analysis.apply(frame(4, 0.4), found(0.9))
    kept, _ = analysis.apply(frame(5, 0.5), found(0.9))
    assert kept.tracks == [3]  # A new tracker goes on counting.
    with pytest.raises(InvalidValueError, match="no such class"):
        analysis.replace(AnalysisOptions(FilterOptions(classes=("c",))))
    assert analysis.apply(frame(6, 0.6), found(0.9))[0].tracks == [3]


def test_if_tracking_ends_between_two_frames_the_undetected_one_is_empty() -> None:
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(every=2))
    assert analysis.wants_detector(frame(0, 0))
    assert not analysis.wants_detector(frame(1, 0.1))
    analysis.replace(AnalysisOptions())
    analysis.apply(frame(0, 0), found(0.9))
    assert len(analysis.apply(frame(1, 0.1), None)[0]) == 0


@pytest.mark.parametrize("every", [1, 2])
def test_numbers_are_stable_through_a_pipeline(every: int) -> None:
    uri = "test://?objects=5&seed=3&frames=300&fps=0"
    pattern = Pattern.parse(uri)

    class Numbered(Exact):
        """The same, for one frame in ``every``."""

        def __call__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
            results = []
            for one in frames:
                results += super().__call__([one])
                self.seen += every - 1
            return results

    sink = Memory()
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(track=TrackOptions(), every=every))
    plan = SourceSpec("cam", lambda: TestPatternSource(uri), live=False, analysis=analysis)
    Pipeline(Numbered(pattern), [plan], [sink], PipelineOptions(batch=4)).run()
    assert [r.frame.sequence for r in sink.results] == list(range(300))
    assert [r.detected for r in sink.results] == [i % every == 0 for i in range(300)]
    last: dict[int, int] = {}
    for result in sink.results[20:]:
        assert len(result.detections) == 5
        truth = boxes_at(pattern, result.frame.sequence)
        if not result.detected:
            continue
        for box, number in zip(result.detections.xyxy, result.detections.tracks, strict=True):
            index = int(np.abs(truth - box).sum(axis=1).argmin())
            assert number is not None
            assert last.setdefault(index, number) == number
    assert sorted(last.values()) == [1, 2, 3, 4, 5]


def test_a_jump_of_the_wall_clock_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    offset = [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    uri = "test://?objects=1&fps=50&width=64&height=64"
    zone = ZoneOptions(confirm=1, dwell=1.0, grace=5.0)
    analysis = SourceAnalysis("cam", NAMES, AnalysisOptions(zones=zone), WHOLE)
    sink = Memory()
    pattern = Pattern.parse(uri)

    def still(frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        box = boxes_at(pattern, 0)
        return [Detections(box, np.full(1, 0.9), np.zeros(1), NAMES) for _ in frames]

    pipeline = Pipeline(
        FunctionDetector(still),
        [SourceSpec("cam", lambda: TestPatternSource(uri), analysis=analysis)],
        [sink],
    )
    thread = threading.Thread(target=pipeline.run)
    started = time.monotonic()
    thread.start()
    for jump in (0.0, -86400.0, 7200.0):
        offset[0] = jump
        count = len(sink.results)
        wait_until(lambda n=count: len(sink.results) >= n + 30, "30 frames more")  # type: ignore[misc]
    pipeline.stop()
    thread.join(LIMIT)
    took = time.monotonic() - started
    walls = [r.frame.wall_time for r in sink.results]
    assert min(np.diff(walls)) < -80000, "the clock did not jump"
    numbers = {n for r in sink.results for n in r.detections.tracks if n is not None}
    assert numbers == {1}
    assert [type(e).__name__ for r in sink.results for e in r.events] == [
        "ObjectEntered", "ZoneCount", "ObjectDwelled",
    ]  # fmt: skip
    figures = pipeline.snapshot().sources["cam"]
    assert 0 <= figures.latency_max < took
    assert all(0 <= r.finished - r.frame.captured < took for r in sink.results)
    states = pipeline.board.latest()["cam"]
    assert pipeline.snapshot().reconnects["cam"] == 0
    assert states.state == "ended"


@pytest.mark.parametrize("every", [0, -1])
def test_bad_options_are_refused(every: int) -> None:
    with pytest.raises(InvalidValueError, match="every"):
        AnalysisOptions(every=every)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([[0, 0], [640, 0], [640, 480]], None),
        ([[0, 0], [650, 0], [640, 490]], None),  # A little too far is not worth a word.
        ([[0, 0], [1, 0], [1.04, 1]], None),
        ([[0, 0], [1280, 0], [1280, 720]], "reaches out of the picture"),
        ([[2000, 1500], [3000, 1500], [3000, 2000]], "lies outside the picture"),
        ([[0, 480], [640, 480], [320, 900]], "reaches out of the picture"),
        ([[0, 490], [640, 490], [320, 900]], "lies outside the picture"),
        ([[0, 1], [1, 1], [1, 0.99]], None),
    ],
)
def test_shapes_outside_the_picture_are_mentioned_once(
    points: list[list[float]], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    corners = tuple((float(x), float(y)) for x, y in points)
    shapes = parse_shapes({"zones": [{"name": "far", "polygon": points}]})
    analysis = SourceAnalysis(
        "cam", NAMES, AnalysisOptions(FilterOptions(region=corners)), shapes, first_id=1
    )
    for sequence in range(5):
        analysis.apply(frame(sequence, sequence / 10), found(0.9))
    texts = [record.getMessage() for record in caplog.records]
    if said is None:
        assert texts == []
        return
    assert [text.partition(": it goes")[0] for text in texts] == [
        f"cam: zone far {said}",
        f"cam: the region {said}",
    ]
    # Other shapes are looked at again.
    analysis.set_shapes(parse_shapes({"lines": [{"name": "l", "points": [[0, 0], [9000, 0]]}]}))
    analysis.apply(frame(5, 0.5), found(0.9))
    assert "cam: line l reaches out of the picture" in caplog.text
