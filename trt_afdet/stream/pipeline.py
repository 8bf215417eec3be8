"""The pipeline: captures -> batcher -> detector -> trackers and zones -> sinks.

Threads: two per source (``capture.py``), one for the detector, one per sink. The detector's
thread takes whatever frames are there (``batcher.py``), so no source waits for another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_afdet.detections import Detections
from trt_afdet.errors import AfdetError, InvalidValueError, RunError
from trt_afdet.stream.analysis.per_source import SourceAnalysis
from trt_afdet.stream.batcher import Batcher, Policy
from trt_afdet.stream.capture import Capture, SourceSpec
from trt_afdet.stream.frame import StreamFrame, StreamResult
from trt_afdet.stream.monitoring.metrics import Metrics
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot, SinkCount
from trt_afdet.stream.monitoring.status import StatusBoard, StatusEvent
from trt_afdet.stream.sinks.base import Sink, SinkRunner
from trt_afdet.support.fields import Count, NotNegative, Positive, check_fields
from trt_afdet.support.redact import redact
from trt_afdet.support.threads import at_work

log = logging.getLogger("trt_afdet.stream")


class StreamDetector(Protocol):
    """Frames in, one result per frame out; see :class:`trt_afdet.runtime.detector.Detector`."""

    @property
    def is_async(self) -> bool:
        """Whether :meth:`submit` returns before the work is done."""

    @property
    def max_batch(self) -> int | None:
        """Most frames of one :meth:`submit`; None if any number goes."""

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]], /) -> Any:
        """Takes frames, BGR uint8 [H, W, 3], and returns a ticket for :meth:`collect`."""

    def collect(self, ticket: Any, /) -> list[Detections]:
        """The results of the frames of a ticket; waits for them."""


@dataclass(frozen=True)
class Scheduling:
    """When frames and results wait, are dropped, or end the run.

    Attributes:
        max_wait: Seconds that a frame waits for others to fill the batch.
        max_age: Seconds after which a live frame that still waits is dropped; None: never.
        sink_queue: Results that may wait for a sink.
        fail_fast: Whether the first source that fails for good ends everything.
        stop_within: Seconds that ending may take, flushing durable sinks included.
    """

    max_wait: NotNegative = 0.005
    max_age: Positive | None = None
    sink_queue: Count = 64
    fail_fast: bool = False
    stop_within: Positive = 0.8

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PipelineOptions(Scheduling):
    """How the pipeline schedules.

    Attributes:
        batch: Most frames per run of the detector.
    """

    batch: Count = 1


class PipelineError(RunError):
    """A part of the pipeline failed; the text names it."""


@dataclass(frozen=True)
class _Batch:
    """Frames on their way through the detector."""

    frames: list[StreamFrame]
    analyses: list[SourceAnalysis | None]
    seen: list[bool]
    ticket: Any


class Pipeline:
    """Runs sources through a detector into sinks until all have ended or it is stopped.

    ``run`` blocks; it opens the sinks, and closes them however it ends. ``stop`` may be called from
    any thread or a signal handler. Sources and sinks can be added and removed while it runs. One
    thread calls the detector.
    """

    def __init__(
        self,
        detector: StreamDetector,
        sources: Sequence[SourceSpec],
        sinks: Sequence[Sink] = (),
        options: PipelineOptions | None = None,
    ) -> None:
        if not sources:
            raise InvalidValueError("a pipeline needs at least one source")
        self.options = options or PipelineOptions()
        self.metrics = Metrics()
        self.board = StatusBoard(self._tell_status)
        self._detector = detector
        self._batch = min(self.options.batch, detector.max_batch or self.options.batch)
        self._batcher = Batcher(self.options.max_age)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._captures: dict[str, Capture] = {}
        self._analyses: dict[str, SourceAnalysis | None] = {}
        # Of sources that were removed: one that comes back goes on counting.
        self._sequences: dict[str, int] = {}
        self._specs = list(sources)
        self._sinks = [self._runner(sink) for sink in sinks]
        self._failure: BaseException | None = None
        names = [spec.name for spec in sources]
        for name in names:
            if names.count(name) > 1:
                raise InvalidValueError("two sources have the same name", got=name)

    def _runner(self, sink: Sink) -> SinkRunner:
        return SinkRunner(sink, self.options.sink_queue, self._sink_failed)

    def run(self) -> None:
        """Runs to the end.

        Raises:
            PipelineError: If the detector or a sink fails, if all sources fail, or if one does with
                ``fail_fast``.
            AfdetError: If a sink cannot be opened.
        """
        with at_work("pipeline", self.stop):
            try:
                for runner in self._sinks:
                    runner.start()
                for spec in self._specs:
                    self.add(spec)
                self._detect()
            except AfdetError:
                raise
            except BaseException as error:
                raise PipelineError(f"the detector failed: {error}") from error
            finally:
                self._end()
        if self._failure is not None:
            raise self._failure
        states = self.board.latest()
        if states and all(event.state == "failed" for event in states.values()):
            name, event = next(iter(states.items()))
            raise PipelineError(f"source {name} failed: {event.detail}")

    def stop(self) -> None:
        """Ends the run soon; returns at once."""
        self._stop.set()
        self._batcher.stop()

    def add(self, spec: SourceSpec) -> None:
        """Starts a source; InvalidValueError if its name is taken."""
        policy: Policy = spec.policy or ("drop-oldest" if spec.live else "wait")
        # A file's next batch is decoded while this one is detected.
        queue = spec.queue or (1 if spec.live else self.options.batch)
        first = self._sequences.get(spec.name, 0)
        capture = Capture(spec, self._batcher, self.board, first, self._source_failed)
        with self._lock:
            self._batcher.add(spec.name, policy, queue)
            self._captures[spec.name] = capture
            self._analyses[spec.name] = spec.analysis
            # Before anybody can remove it, who waits for its end.
            capture.start()

    def remove(self, name: str) -> None:
        """Stops a source and forgets it; the others go on."""
        with self._lock:
            capture = self._captures.pop(name, None)
        if capture is None:
            raise InvalidValueError("no source of that name is running", got=name)
        capture.stop()
        # It waits for no driver; were it given up too early, it would close a successor's queue.
        capture.join(10.0)
        self._sequences[name] = capture.next_sequence
        self._batcher.forget(name)
        self.board.forget(name)
        self.metrics.forget(name)

    def open_sink(self, sink: Sink) -> SinkRunner:
        """Opens a sink; it gets nothing before :meth:`use_sink`."""
        runner = self._runner(sink)
        runner.start()
        return runner

    def use_sink(self, runner: SinkRunner) -> None:
        """Gives a sink of :meth:`open_sink` every source's state, then all that happens."""

        def begin() -> None:
            with self._lock:
                # The list is replaced, never changed: others are going through it.
                self._sinks = [*self._sinks, runner]

        self.board.introduce(lambda event: runner.put(event, self._stop.is_set), begin)

    def replace_sink(self, old: Sink, new: Sink) -> None:
        """Closes a sink and opens another one in its place; nothing gets lost in between.

        If the new one cannot be opened (AfdetError), neither is there.
        """
        after = self._runner(new)
        before = next(r for r in self._sinks if r.sink is old)

        def begin() -> None:
            with self._lock:
                before.successor = after
                self._sinks = [after if r is before else r for r in self._sinks]

        self.board.introduce(lambda event: after.put(event, self._stop.is_set), begin)
        before.close(self.options.stop_within)
        try:
            after.start()
        except BaseException:
            with self._lock:
                self._sinks = [r for r in self._sinks if r is not after]
            raise

    def remove_sink(self, sink: Sink) -> bool:
        """Closes a sink; what waits for a durable one is written first.

        False if that did not finish within ``stop_within``.
        """
        with self._lock:
            runner = next((r for r in self._sinks if r.sink is sink), None)
            if runner is None:
                raise InvalidValueError("the pipeline has no such sink", got=sink.name)
            self._sinks = [r for r in self._sinks if r is not runner]
        return runner.close(self.options.stop_within)

    def changing(self) -> AbstractContextManager[None]:
        """While in this context, the run does not end for want of sources."""
        return self._batcher.kept_open()

    def incomplete(self) -> dict[str, str]:
        """The sources that failed for good or could not be read as a whole, and why."""
        with self._lock:
            captures = list(self._captures.values())
        return {capture.source: capture.incomplete for capture in captures if capture.incomplete}

    def snapshot(self) -> PipelineSnapshot:
        """All figures now."""
        with self._lock:
            reconnects = {name: capture.reconnects for name, capture in self._captures.items()}
        return PipelineSnapshot(
            sources=self.metrics.snapshot(),
            queues=self._batcher.counts(),
            states=self.board.latest(),
            sinks={r.sink.name: SinkCount(r.written, r.dropped, r.waiting()) for r in self._sinks},
            reconnects=reconnects,
            uptime=time.monotonic() - self.metrics.started,
        )

    def _detect(self) -> None:
        # With a detector that works in the background, the next batch is sent off before the last
        # one is collected. No frame waits for that: if none is there, collecting goes first.
        under_way: _Batch | None = None
        while not self._stop.is_set():
            idle = under_way is None
            frames = self._batcher.take(
                self._batch, self.options.max_wait if idle else 0.0, block=idle
            )
            following = self._send(frames) if frames else None
            if under_way is not None:
                self._finish(under_way)
            under_way = following
            if frames is None:
                return
            if under_way is not None and not self._detector.is_async:
                self._finish(under_way)
                under_way = None
        if under_way is not None:
            self._finish(under_way)

    def _send(self, frames: list[StreamFrame]) -> _Batch:
        analyses = [self._analyses[frame.source] for frame in frames]
        seen = [a is None or a.wants_detector(f) for a, f in zip(analyses, frames, strict=True)]
        images = [f.image for f, wanted in zip(frames, seen, strict=True) if wanted]
        ticket = self._detector.submit(images) if images else None
        return _Batch(frames, analyses, seen, ticket)

    def _finish(self, batch: _Batch) -> None:
        count = sum(batch.seen)
        found = iter(self._detector.collect(batch.ticket) if count else ())
        if count:
            self.metrics.batch_done(count)
        for frame, analysis, wanted in zip(batch.frames, batch.analyses, batch.seen, strict=True):
            events: tuple[object, ...] = ()
            if analysis is None:
                detections = next(found)
            else:
                detections, events = analysis.apply(frame, next(found) if wanted else None)
            result = StreamResult(frame, detections, wanted, time.monotonic(), events)
            for runner in self._sinks:
                runner.put(result, self._stop.is_set)
            if frame.source in self._captures:  # Else removed while its frame was under way.
                now = time.monotonic()
                latency = now - frame.captured
                names = list(detections.names)
                self.metrics.frame_done(frame.source, latency, names, detected=wanted, now=now)

    def _end(self) -> None:
        deadline = time.monotonic() + self.options.stop_within
        self.stop()
        with self._lock:
            captures = list(self._captures.values())
        for capture in captures:
            capture.stop()
        # All at once: a sink must not lose its time to one that is closed before it.
        for runner in self._sinks:
            runner.begin_close()
        for runner in self._sinks:
            if not runner.close(max(0.05, deadline - time.monotonic())):
                log.warning("sink %s did not finish in time", runner.sink.name)
        for capture in captures:
            capture.join(max(0.05, deadline - time.monotonic()))

    def _tell_status(self, event: StatusEvent) -> None:
        log.info("%s: %s%s", event.source, event.state, f": {event.detail}" if event.detail else "")
        for runner in self._sinks:
            runner.put(event, self._stop.is_set)

    def _source_failed(self, name: str, error: BaseException) -> None:
        if self.options.fail_fast:
            self._fail(PipelineError(f"source {name} failed: {redact(str(error))}"))

    def _sink_failed(self, name: str, error: BaseException) -> None:
        self._fail(PipelineError(f"sink {name} failed: {redact(str(error))}"))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
        self.stop()
