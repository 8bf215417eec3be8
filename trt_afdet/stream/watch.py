"""Cameras, streams and files from Python: :func:`watch` and :class:`Watch`."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.analysis.filters import FilterOptions
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.config.schema import Config, Loaded, SourceConfig, load_config
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.pipeline import Scheduling
from trt_afdet.stream.service import Service
from trt_afdet.support.threads import Worker

if TYPE_CHECKING:
    from trt_afdet.stream.monitoring.status import StatusEvent

#: How often a thread that waits looks whether it should end, seconds.
_POLL = 0.1

Address = str | int | os.PathLike[str]


class Watch:
    """A running detection: iterate over its results, or wait for its end.

    Leaving its context, or :meth:`stop`, ends it. Iterating and :meth:`wait` raise
    :class:`~trt_afdet.errors.RunError` if the detector or all sources failed.
    """

    def __init__(
        self,
        service: Service,
        results: _Results,
        on_result: Callable[[StreamResult], object] | None = None,
    ) -> None:
        self._service = service
        self._results = results
        self._on_result = on_result
        self._error: BaseException | None = None
        self._threads = [Worker(self._run, name="watch", on_exit=self.stop)]
        if on_result is not None:
            self._threads.append(Worker(self._call, name="on_result", on_exit=self.stop))
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            self._service.pipeline.run()
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._service.close()
            self._results.end()

    def _call(self) -> None:
        assert self._on_result is not None
        try:
            for result in self._results:
                self._on_result(result)
        except BaseException as error:
            self._error = error
            self.stop()

    def stop(self) -> None:
        """Ends it soon; returns at once."""
        self._results.stop()
        self._service.pipeline.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; False if it has not come within ``timeout`` seconds.

        Raises:
            RunError: If the detector or all sources failed.
            Exception: What ``on_result`` raised.
        """
        for thread in self._threads:
            thread.join(timeout)
            if thread.is_alive():
                return False
        if self._error is not None:
            raise self._error
        return True

    def __iter__(self) -> Iterator[StreamResult]:
        if self._on_result is not None:
            raise InvalidValueError("results go to on_result, or to a loop; not to both")
        try:
            yield from self._results
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
        if kind is None:
            self.wait()
        for thread in self._threads:
            thread.join()


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

    A live camera is reconnected when it fails, and its newest frame is processed next. Of files
    every frame is processed. Ctrl-C ends a blocking call, which then returns.

    Args:
        source: An address such as ``rtsp://...``, the number of a camera, a file, several of these,
            or one ``cameras.yaml``, which brings its own model, options, sinks and web page.
        on_result: Called with the :class:`~trt_afdet.stream.frame.StreamResult` of every processed
            frame: in the caller's thread if the call blocks, else in a thread of its own. Without
            it, iterate over what this function returns.
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
    addresses = _addresses(source)
    if len(addresses) == 1 and addresses[0].lower().endswith((".yaml", ".yml")):
        if any((model, conf, classes, device, track, zones, every != 1, realtime)):
            raise InvalidValueError(
                "a cameras.yaml brings its own model and options", got=addresses[0]
            )
        loaded = load_config(Path(addresses[0]))
    else:
        if conf is None:
            conf = FilterOptions.conf
            if isinstance(model, Detector):
                conf = model.spec.score_threshold
        sources = [
            SourceConfig(
                uri=address,
                conf=conf,
                classes=None if classes is None else tuple(classes),
                track=TrackOptions() if track or zones or every > 1 else None,
                zones=zones,
                every=every,
                realtime=realtime,
            )
            for address in addresses
        ]
        file = None if model is None or isinstance(model, Detector) else str(model)
        # Few results wait, so that what on_result sees is recent.
        options = Scheduling(sink_queue=2 * min(len(sources), 8))
        loaded = Loaded(Config(sources=tuple(sources), model=file, conf=conf, options=options))
    results = _Results()
    detector = model if isinstance(model, Detector) else None
    service = Service(loaded, detector, [results], device)
    if on_result is None or not block:
        return Watch(service, results, on_result)
    with suppress(KeyboardInterrupt), Watch(service, results) as running:
        for result in running:
            on_result(result)
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


class _Results:
    """The sink that hands the results of every processed frame to whoever iterates."""

    name = "on_result"
    durable = True

    def __init__(self) -> None:
        # One result may wait here, so that a slow reader sees recent frames.
        self._results: queue.Queue[StreamResult] = queue.Queue(1)
        self._stopped = threading.Event()
        self._ended = threading.Event()

    def open(self) -> None: ...

    def status(self, event: StatusEvent) -> None: ...

    def close(self) -> None: ...

    def write(self, result: StreamResult) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Full):
                self._results.put(result, timeout=_POLL)
                return

    def stop(self) -> None:
        self._stopped.set()

    def end(self) -> None:
        """No result comes after this."""
        self._ended.set()

    def __iter__(self) -> Iterator[StreamResult]:
        while True:
            over = self._ended.is_set()
            try:
                yield self._results.get(timeout=_POLL)
            except queue.Empty:
                if over:
                    return
