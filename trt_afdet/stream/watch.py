"""Cameras, streams and files from Python: :func:`watch` and :class:`Watch`."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.analysis.filters import FilterOptions
from trt_afdet.stream.analysis.per_source import AnalysisOptions, SourceAnalysis
from trt_afdet.stream.analysis.shapes import Shapes, parse_shapes
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.config.addresses import SourceAddress, make_source, parse_source
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.pipeline import Pipeline, PipelineOptions, SourceSpec
from trt_afdet.support.threads import Worker

if TYPE_CHECKING:
    from trt_afdet.stream.monitoring.status import StatusEvent

#: Lowest confidence where nothing else is asked for, as in ``trt-afdet run``.
CONF = 0.3

#: How often a thread that waits looks whether it should end, seconds.
_POLL = 0.1

Address = str | int | os.PathLike[str]


class Watch:
    """A running detection: iterate over its results, or wait for its end.

    Leaving its context, or :meth:`stop`, ends it.

    Raises:
        RunError: From iterating and :meth:`wait`, if the detector or all sources failed.
    """

    def __init__(self, pipeline: Callable[[_Handover], Pipeline], sink: _Handover) -> None:
        self._sink = sink
        self._pipeline = pipeline(sink)
        self._error: BaseException | None = None
        self._thread = Worker(self._run, name="watch", on_exit=self.stop)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._pipeline.run()
        except BaseException as error:
            self._error = self._sink.error or error
        finally:
            self._sink.end()

    def stop(self) -> None:
        """Ends it soon; returns at once."""
        self._sink.stop()
        self._pipeline.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; False if it has not come within ``timeout`` seconds.

        Raises:
            RunError: If the detector or all sources failed.
            Exception: What ``on_result`` raised.
        """
        limit = None if timeout is None else timeout
        while self._thread.is_alive():
            # In pieces, so that Ctrl-C is heard.
            self._thread.join(_POLL if limit is None else min(_POLL, limit))
            if limit is not None:
                limit -= _POLL
                if limit <= 0:
                    break
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def __iter__(self) -> Iterator[StreamResult]:
        try:
            yield from self._sink
        finally:
            self.stop()
        self.wait()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._thread.join()


def watch(
    source: Address | Iterable[Address],
    on_result: Callable[[StreamResult], object] | None = None,
    *,
    model: str | Path | Detector | None = None,
    conf: float | None = None,
    classes: Sequence[str] | None = None,
    device: int | str | None = None,
    track: bool = False,
    zones: Mapping[str, Any] | None = None,
    every: int = 1,
    realtime: bool = False,
    block: bool = True,
) -> Watch | None:
    """Detects on cameras, streams and files for as long as they run.

    A live camera is reconnected when it fails, and only its newest frame is processed. Of files
    every frame is.

    Args:
        source: An address such as ``rtsp://...``, the number of a camera, a file, several of these,
            or one ``cameras.yaml``, which brings its own model and options.
        on_result: Called with every :class:`~trt_afdet.stream.frame.StreamResult`, from one thread.
            Without it, iterate over what this function returns.
        model: A model file or an open detector; the shipped model by default.
        conf: Lowest confidence, 0..1; 0.3 by default, or the detector's own.
        classes: Names of the classes to report.
        device: See :class:`~trt_afdet.Detector`.
        track: Number the objects.
        zones: Zones and lines of every source: ``{"zones": [...], "lines": [...]}`` as in the
            file of zones; their events are in ``result.events``.
        every: Detect on one frame in so many; tracks go on in between.
        realtime: Play files at their own pace.
        block: Whether to return at the end only. Without ``on_result`` it never blocks.

    Returns:
        None if it blocked, else a :class:`Watch`.

    Raises:
        InvalidValueError: If an address or an option is wrong.
        MissingDependencyError: If a source needs a package that is not installed.
        RunError: If the detector or all sources failed.
        Exception: What ``on_result`` raises ends the run and reaches the caller.
    """
    sources = _addresses(source)
    handover = _Handover(on_result)
    closing: list[Detector] = []
    try:
        if len(sources) == 1 and sources[0].lower().endswith((".yaml", ".yml")):
            if any((model, conf, classes, device, track, zones, every != 1, realtime)):
                raise InvalidValueError(
                    "a cameras.yaml brings its own model and options", got=sources[0]
                )
            running = Watch(_from_yaml(Path(sources[0]), closing), handover)
        else:
            specs = [parse_source(text) for text in sources]
            detector, options = _detector(model, conf, classes, device, track, zones, every)
            if not isinstance(model, Detector):
                closing.append(detector)
            shapes = Shapes() if zones is None else parse_shapes(dict(zones))
            running = Watch(
                _from_addresses(specs, detector, options, shapes, realtime, handover), handover
            )
    except BaseException:
        for one in closing:
            one.close()
        raise
    handover.closing = closing
    if on_result is None or not block:
        return running
    with running:
        running.wait()
    return None


def _addresses(source: Address | Iterable[Address]) -> list[str]:
    given = [source] if isinstance(source, (str, int, os.PathLike)) else list(source)
    if not given:
        raise InvalidValueError("there is no source to watch", got="an empty list")
    for one in given:
        if isinstance(one, bool) or not isinstance(one, (str, int, os.PathLike)):
            raise InvalidValueError(
                "a source is an address, a file or the number of a camera", got=type(one).__name__
            )
    return [f"/dev/video{one}" if isinstance(one, int) else os.fspath(one) for one in given]


def _detector(
    model: str | Path | Detector | None,
    conf: float | None,
    classes: Sequence[str] | None,
    device: int | str | None,
    track: bool,
    zones: Mapping[str, Any] | None,
    every: int,
) -> tuple[Detector, AnalysisOptions]:
    """The detector, and what is done with its results."""
    tracking = TrackOptions() if track or zones or every > 1 else None
    if isinstance(model, Detector):
        lowest = model.spec.score_threshold if conf is None else conf
    else:
        lowest = CONF if conf is None else conf
    filters = FilterOptions(classes=None if classes is None else tuple(classes), conf=lowest)
    options = AnalysisOptions(filters, tracking, every)
    if isinstance(model, Detector):
        return model, options
    needed = lowest if tracking is None else min(lowest, tracking.low)
    return Detector(model, conf=needed, device=device), options


def _from_addresses(
    specs: Sequence[SourceAddress],
    detector: Detector,
    options: AnalysisOptions,
    shapes: Shapes,
    realtime: bool,
    handover: _Handover,
) -> Callable[[_Handover], Pipeline]:
    live = [spec.live for spec in specs]
    handover.durable = not any(live)
    names: list[str] = []
    for spec in specs:
        number = sum(name == spec.name or name.startswith(f"{spec.name} (") for name in names)
        names.append(f"{spec.name} ({number + 1})" if number else spec.name)
    plans = [
        SourceSpec(
            name=name,
            make=lambda spec=spec, name=name: make_source(spec, name),  # type: ignore[misc]
            live=spec.live,
            realtime=realtime,
            stage=SourceAnalysis(name, detector.names, options, shapes),
        )
        for spec, name in zip(specs, names, strict=True)
    ]
    batch = min(len(specs), 8)
    scheduling = PipelineOptions(batch=batch, sink_queue=2 * batch)
    return lambda sink: Pipeline(detector, plans, [sink], scheduling)


def _from_yaml(path: Path, closing: list[Detector]) -> Callable[[_Handover], Pipeline]:
    from trt_afdet.stream.config.deployment import Deployment, open_detector, resolve
    from trt_afdet.stream.config.schema import load_config

    loaded = load_config(path)
    resolve(loaded, None)
    detector = open_detector(loaded)
    closing.append(detector)
    plan = resolve(loaded, detector.names)
    return lambda sink: Deployment(plan, detector, detector.names, [sink]).pipeline


class _Handover:
    """The sink that hands results to a function, or to whoever iterates."""

    name = "on_result"

    def __init__(self, on_result: Callable[[StreamResult], object] | None) -> None:
        self.durable = False
        self.error: BaseException | None = None
        self.closing: list[Detector] = []
        self._on_result = on_result
        # Of a live camera the newest frame counts: nothing may wait here.
        self._results: queue.Queue[StreamResult] = queue.Queue(1)
        self._stopped = threading.Event()
        self._ended = threading.Event()

    def open(self) -> None: ...

    def status(self, event: StatusEvent) -> None: ...

    def close(self) -> None: ...

    def write(self, result: StreamResult) -> None:
        if self._on_result is not None:
            try:
                self._on_result(result)
            except BaseException as error:
                self.error = error
                raise RunError(f"on_result raised {type(error).__name__}", got=error) from error
            return
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=_POLL)
                return
            except queue.Full:
                continue

    def stop(self) -> None:
        self._stopped.set()

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended.set()
        for detector in self.closing:
            detector.close()

    def __iter__(self) -> Iterator[StreamResult]:
        if self._on_result is not None:
            raise InvalidValueError("results go to on_result, or to a loop; not to both")
        while True:
            over = self._ended.is_set()
            try:
                yield self._results.get(timeout=_POLL)
            except queue.Empty:
                if over:
                    return
