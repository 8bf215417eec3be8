"""Scheduling: nobody waits for anybody, drops are counted, order holds, failures have names."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from tests.trt_afdet.stream.detectors import FunctionDetector, SyncDetector
from tests.waiting import LIMIT, wait_until
from trt_afdet.detections import Detections
from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.batcher import Batcher
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.monitoring.metrics import Histogram
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline, PipelineError, PipelineOptions, SourceSpec
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sources.base import (
    LoginRefusedError,
    Picture,
    Source,
    SourceError,
    SourceInfo,
    SourceRefusedError,
    UnusableSourceError,
)
from trt_afdet.stream.sources.test_pattern import Pattern, TestPatternSource, boxes_at

IMAGE = np.zeros((8, 8, 3), np.uint8)
#: Quick pauses; no source is called stalled because the machine is busy.
FAST = Retry(first=0.02, longest=0.05, stall=60.0, opening=60.0, settled=1000.0)


def frame(source: str, sequence: int = 0, captured: float = 0.0) -> StreamFrame:
    return StreamFrame(source, sequence, IMAGE, captured, 0.0)


class OneBox(SyncDetector):
    """Finds one object of class "a" in every frame."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        self.batches.append(len(frames))
        box = np.array([[1, 1, 4, 4]], np.float32)
        one = Detections(box, np.ones(1, np.float32), np.zeros(1, np.int32), ("a",))
        return [one for _ in frames]


class Memory:
    """A sink that keeps what it gets."""

    def __init__(
        self,
        durable: bool = True,
        ready: Callable[[], bool] = lambda: True,
        fail_at: int = -1,
    ) -> None:
        self.name = "memory"
        self.durable = durable
        self.results: list[StreamResult] = []
        self.events: list[StatusEvent] = []
        self.closed = 0
        self._ready = ready
        self._fail_at = fail_at

    def open(self) -> None:
        """Nothing to open."""

    def write(self, result: StreamResult) -> None:
        if len(self.results) == self._fail_at:
            raise OSError("disk full")
        wait_until(self._ready, "what this sink waits for")
        self.results.append(result)

    def status(self, event: StatusEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    def sequences(self, source: str) -> list[int]:
        return [r.frame.sequence for r in self.results if r.frame.source == source]

    def states(self, source: str) -> list[str]:
        return [e.state for e in self.events if e.source == source]


class Scripted:
    """A source that does what a list says: "frame", "end", "lost", "refused", "crash", "hang"."""

    def __init__(self, script: list[str], live: bool = True) -> None:
        self.name = "scripted"
        self.live = live
        self._script = script
        self._released = threading.Event()

    def open(self) -> SourceInfo:
        if self._script and self._script[0].startswith("no "):
            raise SourceError(self._script.pop(0))
        return SourceInfo(8, 8, None, "script")

    def read(self) -> Picture | None:
        step = self._script.pop(0) if self._script else "end"
        if step == "frame":
            return Picture(IMAGE)
        if step == "end":
            return None
        if step == "hang":
            self._released.wait(2 * LIMIT)
            raise SourceError("came back late")
        raise {"lost": SourceError, "refused": UnusableSourceError, "crash": ZeroDivisionError}[
            step
        ](step)

    def interrupt(self) -> None:
        """A driver that does not listen."""

    def close(self) -> None:
        """Nothing is held open."""


def pattern(frames: int, fps: float = 0, seed: int = 1) -> Source:
    return TestPatternSource(f"test://?width=64&height=64&fps={fps}&frames={frames}&seed={seed}")


def test_a_full_queue_drops_as_its_policy_says() -> None:
    batcher = Batcher()
    batcher.add("old", "drop-oldest", 2)
    batcher.add("new", "drop-newest", 2)
    for sequence in range(5):
        assert batcher.put(frame("old", sequence))
        assert batcher.put(frame("new", sequence))
    batch = batcher.take(8, 0) or []
    assert [f.sequence for f in batch if f.source == "old"] == [3, 4]
    assert [f.sequence for f in batch if f.source == "new"] == [0, 1]
    counts = batcher.counts()
    assert (counts["old"].received, counts["old"].dropped) == (5, 3)
    assert (counts["new"].received, counts["new"].dropped) == (5, 3)


def test_waiting_sources_lose_nothing_and_are_released_by_stop() -> None:
    batcher = Batcher()
    batcher.add("file", "wait", 1)
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.extend(batcher.put(frame("file", i)) for i in range(3))
    )
    thread.start()
    assert [f.sequence for f in batcher.take(4, 0) or []] == [0]
    assert [f.sequence for f in batcher.take(4, 0.2) or []] == [1]
    batcher.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert batcher.take(4, 0) is None
    assert batcher.counts()["file"].dropped == 0


def test_a_waiting_source_is_released_when_it_is_given_up() -> None:
    batcher = Batcher()
    batcher.add("file", "wait", 1)
    given_up = threading.Event()
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.extend(
            batcher.put(frame("file", i), given_up.is_set) for i in range(2)
        )
    )
    thread.start()
    wait_until(lambda: results, "the first frame")
    given_up.set()
    batcher.wake()
    thread.join(LIMIT)
    assert results == [True, False]
    assert len(batcher.take(4, 0) or []) == 1


def test_sources_take_turns() -> None:
    batcher = Batcher()
    for name in "abc":
        batcher.add(name, "drop-oldest", 4)
        for sequence in range(4):
            batcher.put(frame(name, sequence))
    batches = [[f.source for f in batcher.take(2, 0) or []] for _ in range(6)]
    assert batches == [["a", "b"], ["c", "a"], ["b", "c"]] * 2


def test_a_batch_waits_for_nobody_who_is_not_due() -> None:
    now = [0.0]
    batcher = Batcher(clock=lambda: now[0])
    for name in ("quick", "slow", "dead"):
        batcher.add(name)
    long = 300.0
    started = time.monotonic()
    for moment in (0.0, 1000.0, 2000.0):
        now[0] = moment
        batcher.put(frame("slow"))
        assert len(batcher.take(3, long) or []) == 1  # Nothing is known of the others.
    now[0] = 2500.0
    batcher.put(frame("quick"))
    assert len(batcher.take(3, long) or []) == 1  # Due at 3000, after the deadline.
    now[0] = 4500.0
    batcher.put(frame("quick"))
    assert len(batcher.take(3, long) or []) == 1  # More than an interval overdue.
    assert time.monotonic() - started < LIMIT  # A fifth of what waiting once would take.


def test_a_batch_waits_for_who_is_due() -> None:
    now = [0.0]
    batcher = Batcher(clock=lambda: now[0])
    batcher.add("quick")
    batcher.add("due")
    for moment in (0.0, 100.0):
        now[0] = moment
        batcher.put(frame("due"))
        batcher.take(1, 0)
    now[0] = 190.0
    batcher.put(frame("quick"))
    late = threading.Timer(0.2, batcher.put, [frame("due")])
    late.start()
    assert [f.source for f in batcher.take(2, 30.0) or []] == ["quick", "due"]
    late.join()


def test_a_batch_leaves_when_its_time_is_up() -> None:
    now = [0.0]
    batcher = Batcher(clock=lambda: now[0])
    batcher.add("quick")
    batcher.add("due")
    for moment in (0.0, 0.1):
        now[0] = moment
        batcher.put(frame("due"))
        batcher.take(1, 0)
    batcher.put(frame("quick"))
    started = time.monotonic()
    assert len(batcher.take(2, 0.2) or []) == 1
    assert time.monotonic() - started > 0.15


def test_taking_need_not_block() -> None:
    batcher = Batcher()
    batcher.add("camera")
    assert batcher.take(2, 1.0, block=False) == []
    batcher.put(frame("camera"))
    assert len(batcher.take(2, 1.0, block=False) or []) == 1
    batcher.close("camera")
    assert batcher.take(2, 1.0, block=False) is None


def test_frames_that_waited_too_long_are_dropped_and_counted() -> None:
    now = [100.0]
    batcher = Batcher(max_age=0.5, clock=lambda: now[0])
    batcher.add("live", "drop-oldest", 3)
    batcher.add("file", "wait", 3)
    batcher.put(frame("live", 0, captured=99.0))
    batcher.put(frame("live", 1, captured=99.9))
    batcher.put(frame("file", 0, captured=1.0))
    taken = {(f.source, f.sequence) for f in batcher.take(8, 0) or []}
    assert taken == {("live", 1), ("file", 0)}
    assert batcher.counts()["live"].stale == 1


def test_bad_queues_are_refused() -> None:
    batcher = Batcher()
    batcher.add("a")
    with pytest.raises(InvalidValueError, match="same name"):
        batcher.add("a")
    with pytest.raises(InvalidValueError, match="drop-oldest, drop-newest, wait"):
        SourceSpec("b", lambda: pattern(1), policy="random")  # type: ignore[arg-type]
    for queue in (0, -1):
        with pytest.raises(InvalidValueError, match="queue must be at least 1"):
            SourceSpec("c", lambda: pattern(1), queue=queue)
    with pytest.raises(InvalidValueError, match="max_age must be above 0"):
        PipelineOptions(max_age=0)


def test_files_are_read_to_the_last_frame_in_order() -> None:
    sink, detector = Memory(), OneBox()
    plans = [
        SourceSpec(f"f{i}", lambda i=i: pattern(300, seed=i), live=False)  # type: ignore[misc]
        for i in range(4)
    ]
    pipeline = Pipeline(detector, plans, [sink], PipelineOptions(batch=4))
    pipeline.run()
    for plan in plans:
        assert sink.sequences(plan.name) == list(range(300))
        assert sink.states(plan.name)[-1] == "ended"
    assert sink.closed == 1
    assert sum(detector.batches) == 1200
    figures = pipeline.snapshot()
    assert figures.sources["f0"].processed == 300
    assert figures.sources["f0"].objects == {"a": 300}
    assert figures.queues["f0"].dropped == 0


def test_latency_stays_bounded_when_the_detector_is_too_slow() -> None:
    sink = Memory()
    plans = [
        SourceSpec(f"c{i}", lambda i=i: pattern(0, fps=50, seed=i))  # type: ignore[misc]
        for i in range(3)
    ]
    detector = OneBox()
    received: list[dict[str, int]] = []

    def slow(frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        """Each batch takes as long as every camera needs for twenty frames more."""
        before = {name: queue.received for name, queue in pipeline.snapshot().queues.items()}
        received.append(before)
        if len(received) > 8:
            pipeline.stop()
        else:
            wait_until(
                lambda: all(
                    queue.received >= before[name] + 20
                    for name, queue in pipeline.snapshot().queues.items()
                )
            )
        return detector(frames)

    pipeline = Pipeline(FunctionDetector(slow), plans, [sink], PipelineOptions(batch=3))
    pipeline.run()
    figures = pipeline.snapshot()
    for plan in plans:
        assert figures.queues[plan.name].dropped > 20
        sequences = sink.sequences(plan.name)
        assert sequences == sorted(set(sequences))
        # No frame waited for more than the batch in work: the newest one went next.
        assert all(b - a >= 19 for a, b in pairwise(sequences[1:-1]))


def test_stop_does_not_wait_for_a_driver_that_hangs() -> None:
    sink = Memory()
    plans = [
        SourceSpec("hung", lambda: Scripted(["frame", "hang"]), retry=Retry(stall=4 * LIMIT)),
        SourceSpec("fine", lambda: pattern(0, fps=30)),
    ]
    pipeline = Pipeline(OneBox(), plans, [sink])
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    wait_until(lambda: sink.sequences("hung") and sink.sequences("fine"), "frames of both")
    pipeline.stop()
    thread.join(LIMIT)  # The driver is silent for twice as long.
    assert not thread.is_alive()
    assert sink.closed == 1


def test_a_lost_camera_comes_back_and_keeps_counting() -> None:
    sink = Memory()
    scripts = [["frame", "frame", "lost"], ["no answer"], ["frame", "end"]]
    plan = SourceSpec("cam", lambda: Scripted(scripts.pop(0)), policy="wait", retry=FAST)
    pipeline = Pipeline(OneBox(), [plan], [sink])
    pipeline.run()
    assert sink.sequences("cam") == [0, 1, 2]
    assert sink.states("cam") == [
        "connecting", "live", "lost", "connecting", "lost", "connecting", "live", "ended",
    ]  # fmt: skip
    assert pipeline.snapshot().reconnects["cam"] == 2


def test_a_frozen_camera_is_restarted_beside_its_hung_driver() -> None:
    sink = Memory()
    scripts = [["frame", "hang", "frame"], ["frame", "end"]]
    retry = replace(FAST, stall=2.0)
    plan = SourceSpec("cam", lambda: Scripted(scripts.pop(0)), policy="wait", retry=retry)
    Pipeline(OneBox(), [plan], [sink]).run()
    assert sink.sequences("cam") == [0, 1]
    assert sink.states("cam")[:4] == ["connecting", "live", "stalled", "lost"]


@pytest.mark.parametrize("step", ["refused", "crash"])
def test_a_camera_that_fails_for_good_ends_alone(step: str) -> None:
    sink = Memory()
    plans = [
        SourceSpec("bad", lambda: Scripted(["frame", step]), retry=FAST),
        SourceSpec("good", lambda: pattern(200), live=False),
    ]
    Pipeline(OneBox(), plans, [sink]).run()
    assert sink.states("bad")[-1] == "failed"
    assert len(sink.sequences("good")) == 200
    sink = Memory()
    plans[1] = SourceSpec("good", lambda: pattern(0, fps=30))
    with pytest.raises(PipelineError, match="source bad failed"):
        Pipeline(OneBox(), plans, [sink], PipelineOptions(fail_fast=True)).run()
    assert sink.closed == 1


class Refusing(Scripted):
    """Is refused some times, then gives frames."""

    def __init__(self, refusals: list[BaseException], steps: list[str]) -> None:
        super().__init__(steps)
        self._refusals = refusals

    def read(self) -> Picture | None:
        if self._refusals:
            raise self._refusals.pop(0)
        return super().read()


@pytest.mark.parametrize("kind", [SourceError, SourceRefusedError, LoginRefusedError])
def test_no_refusal_of_a_camera_is_final(kind: type[SourceError]) -> None:
    sink = Memory()
    refusals: list[BaseException] = [kind(f"no {n}") for n in range(4)]
    steps = ["frame", "end"]
    retry = replace(FAST, first=0.001)
    Pipeline(
        OneBox(), [SourceSpec("cam", lambda: Refusing(refusals, steps), retry=retry)], [sink]
    ).run()
    assert sink.sequences("cam") == [0]
    assert "failed" not in sink.states("cam")
    lost = [event.detail for event in sink.events if event.state == "lost"]
    assert len(lost) == 4
    assert re.fullmatch(r"no 0; trying again in [\d.]+ s, at \d\d:\d\d:\d\d", lost[0])


def test_a_camera_is_given_up_where_that_is_asked_for() -> None:
    sink = Memory()
    refusals: list[BaseException] = [SourceRefusedError("no")] * 9
    retry = replace(FAST, first=0.001, give_up=3)
    plan = SourceSpec("cam", lambda: Refusing(refusals, []), retry=retry)
    with pytest.raises(PipelineError, match="no; given up after 3 tries"):
        Pipeline(OneBox(), [plan], [sink]).run()
    assert len(refusals) == 6


def test_a_refused_password_is_tried_seldom() -> None:
    retry = Retry(jitter=0)
    assert [retry.pause(n, 0, login=True) for n in (1, 2, 3, 4, 999)] == [10, 60, 300, 300, 300]
    assert [retry.pause(n, 0) for n in (1, 2, 999)] == [0.5, 1, 30]
    # Never more than five tries in five minutes, which is where cameras lock a user out.
    moments = [0.0]
    for n in range(1, 20):
        moments.append(moments[-1] + retry.pause(n, 0, login=True))
    assert max(sum(m <= other < m + 300 for other in moments) for m in moments) <= 3


def test_if_all_sources_fail_the_run_fails_with_a_name() -> None:
    plan = SourceSpec("only", lambda: Scripted(["refused"]), retry=FAST)
    with pytest.raises(PipelineError, match="source only failed: refused"):
        Pipeline(OneBox(), [plan]).run()


def test_a_failing_sink_or_detector_is_named() -> None:
    def plan() -> SourceSpec:
        return SourceSpec("file", lambda: pattern(500), live=False)

    with pytest.raises(PipelineError, match="sink memory failed: disk full"):
        Pipeline(OneBox(), [plan()], [Memory(fail_at=3)]).run()

    def broken(frames: object) -> list[Detections]:
        raise RuntimeError("out of memory")

    sink = Memory()
    with pytest.raises(PipelineError, match="detector failed: out of memory"):
        Pipeline(FunctionDetector(broken), [plan()], [sink]).run()
    assert sink.closed == 1


def test_a_slow_sink_drops_its_own_and_a_durable_one_gets_all() -> None:
    durable = Memory()
    slow = Memory(durable=False, ready=lambda: len(durable.results) == 200)
    plan = SourceSpec("file", lambda: pattern(200), live=False)
    pipeline = Pipeline(OneBox(), [plan], [slow, durable], PipelineOptions(sink_queue=4))
    pipeline.run()
    assert durable.sequences("file") == list(range(200))
    assert len(slow.results) < 50
    assert pipeline.snapshot().sinks["memory"][1] >= 0


def test_sources_come_and_go_while_it_runs() -> None:
    sink = Memory()
    pipeline = Pipeline(OneBox(), [SourceSpec("a", lambda: pattern(0, fps=60))], [sink])
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    pipeline.add(SourceSpec("b", lambda: pattern(0, fps=60)))
    with pytest.raises(InvalidValueError, match="same name"):
        pipeline.add(SourceSpec("b", lambda: pattern(0, fps=60)))
    wait_until(lambda: sink.sequences("a") and sink.sequences("b"), "frames of both")
    pipeline.remove("b")
    assert "b" not in pipeline.snapshot().queues
    pipeline.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert sink.sequences("a")


def test_realtime_files_keep_their_pace() -> None:
    plan = SourceSpec("file", lambda: pattern(15, fps=0), live=False, realtime=True)
    started = time.monotonic()
    Pipeline(OneBox(), [plan]).run()
    # 15 frames at 30 a second.
    assert time.monotonic() - started > 0.4


def test_pauses_grow_to_a_limit_and_jitter_both_ways() -> None:
    retry = Retry(first=1, factor=2, longest=10, jitter=0.2)
    assert [retry.pause(n, 0.5) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 10]
    assert retry.pause(10**6, 0.5) == 10
    assert retry.pause(1, 0.0) == pytest.approx(0.8)
    assert retry.pause(1, 1.0) == pytest.approx(1.2)


def test_percentiles_of_the_histogram() -> None:
    histogram = Histogram()
    for value in range(1, 1001):
        histogram.add(value / 1000)
    assert histogram.percentile(0.5) == pytest.approx(0.5, rel=0.3)
    assert histogram.percentile(0.99) == pytest.approx(0.99, rel=0.3)
    assert histogram.percentile(1.0) == 1.0
    assert np.isnan(Histogram().percentile(0.5))


def test_the_pattern_moves_and_its_boxes_are_where_it_says() -> None:
    source = TestPatternSource("test://?width=320&height=240&objects=2&frames=3&fps=0")
    source.open()
    for index in range(3):
        picture = source.read()
        assert picture is not None
        for x1, y1, x2, y2 in boxes_at(source.pattern, index).round().astype(int):
            assert (picture.image[y1:y2, x1:x2] >= 120).any(axis=2).all()
    assert source.read() is None
    first, later = boxes_at(Pattern(), 0), boxes_at(Pattern(), 1000)
    assert not np.array_equal(first, later)
    assert (later[:, :2] >= 0).all()
    assert (later[:, 2] <= 640).all()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("test://?widht=5", "unknown option .*width"),
        ("test://?width=5", "at least 64"),
        ("test://?fps=fast", "must be a number"),
        ("test://?objects=-1", "at least 0"),
    ],
)
def test_bad_patterns_are_refused(uri: str, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        TestPatternSource(uri)


class InBackground(OneBox):
    """Works as a GPU does: ``submit`` returns at once, ``collect`` waits."""

    is_async = True
    max_batch = 2

    def __init__(self) -> None:
        super().__init__()
        self.under_way = 0
        self.most_under_way = 0
        self.calls: list[str] = []

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[Detections]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return self(frames)

    def collect(self, ticket: list[Detections]) -> list[Detections]:
        self.under_way -= 1
        return ticket


def test_batches_overlap_on_a_detector_that_works_in_the_background() -> None:
    detector = InBackground()
    sink = Memory()
    plans = [
        SourceSpec(name, lambda: Scripted(["frame"] * 12, live=False), live=False)
        for name in ("a", "b")
    ]
    Pipeline(detector, plans, [sink], PipelineOptions(batch=16)).run()
    assert detector.most_under_way == 2
    assert detector.under_way == 0
    assert max(detector.batches) == 2
    for name in ("a", "b"):
        assert sink.sequences(name) == list(range(12))


def test_a_lone_frame_does_not_wait_for_the_next_one() -> None:
    sink = Memory()

    class OneAtATime(Scripted):
        """Gives its next frame when the one before has come out at the other end."""

        given = 0

        def read(self) -> Picture | None:
            wait_until(lambda: len(sink.results) == self.given, "the frame before")
            self.given += 1
            return super().read()

    plans = [SourceSpec("a", lambda: OneAtATime(["frame"] * 3), live=True)]
    Pipeline(InBackground(), plans, [sink]).run()
    assert sink.sequences("a") == [0, 1, 2]


class Telling(Scripted):
    """Names its address, password and all, in what it raises."""

    def read(self) -> Picture | None:
        raise UnusableSourceError("cannot open rtsp://admin:hunter2@10.0.0.9/stream?token=abc")


def test_credentials_in_an_error_reach_nobody(caplog: pytest.LogCaptureFixture) -> None:
    sink = Memory()
    plans = [SourceSpec("door", lambda: Telling([]))]
    with pytest.raises(PipelineError) as caught:
        Pipeline(OneBox(), plans, [sink], PipelineOptions(fail_fast=True)).run()
    told = [str(caught.value), caplog.text, *(event.detail for event in sink.events)]
    assert any("10.0.0.9" in text for text in told)
    for text in told:
        assert "hunter2" not in text
        assert "abc" not in text
