"""Cameras, streams and files from Python: :func:`watch` and :class:`Watch`."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.live.service import Service
from trt_afdet.runtime.detector import Detector
from trt_afdet.stream.analysis.filters import FilterOptions
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.config.schema import Config, Loaded, SourceConfig, is_config_file, load_config
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.pipeline import Scheduling
from trt_afdet.support.threads import Worker

if TYPE_CHECKING:
    from trt_afdet.stream.monitoring.status import StatusEvent

#: Seconds between two checks whether a waiting thread should end.
_POLL = 0.1

Address = str | int | os.PathLike[str]


class Watch:
    """A running detection: iterate over its results, or wait for its end.

    Leaving the context or calling :meth:`stop` ends it. Iteration and :meth:`wait` raise
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
        """Asks the detection to end; returns at once."""
        self._results.stop()
        self._service.pipeline.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end; False if the detection still runs after ``timeout`` seconds.

        Raises:
            RunError: If the detector or all sources failed.
            Exception: The exception of ``on_result``.
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
            raise InvalidValueError("results go to on_result or to a loop, not to both")
        try:
            yield from self._results
        finally:
            self.stop()
        self.wait()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
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
    """Detects on cameras, streams and files until they end.

    A live camera is reconnected when it fails, and its newest frame is processed next. Every frame
    of a file is processed. Ctrl-C ends a blocking call, which then returns.

    Args:
        source: An address such as ``rtsp://...``, the number of a camera, a file, several of these,
            or one ``cameras.yaml``, which sets the model, options, sinks and web page itself.
        on_result: Called with the :class:`~trt_afdet.stream.frame.StreamResult` of every processed
            frame: in the caller's thread if the call blocks, else in a separate one. Without it,
            iterate over the returned :class:`Watch`.
        model: A model file or an open detector; the shipped model by default.
        conf: Lowest confidence, 0..1; 0.3 by default, or the detector's own.
        classes: Names of the classes to report.
        device: See :class:`~trt_afdet.Detector`.
        track: Number the objects.
        zones: Zones and lines of every source: ``{"zones": [...], "lines": [...]}`` as in the
            file of zones; ``result.events`` holds their events.
        every: Detect on one frame in so many; the tracker fills in the others.
        realtime: Play files at their own pace.
        block: Return only at the end. A call without ``on_result`` never blocks.

    Returns:
        None if it blocked, else a :class:`Watch`.

    Raises:
        InvalidValueError: If an address or an option is wrong.
        MissingDependencyError: If a source needs a package that is not installed.
        RunError: If the detector or all sources failed.
        Exception: An exception of ``on_result`` ends the run and reaches the caller.
    """
    addresses = _addresses(source)
    if len(addresses) == 1 and is_config_file(addresses[0]):
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
        # A short queue, so that on_result sees recent frames.
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
    given: list[Any] = [source]
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)):
        given = list(source)
    if not given:
        raise InvalidValueError("watch needs a source", got="an empty list")
    for one in given:
        if isinstance(one, bool) or not isinstance(one, (str, int, os.PathLike)):
            raise InvalidValueError(
                "a source is an address, a file or the number of a camera", got=type(one).__name__
            )
    return [f"/dev/video{one}" if isinstance(one, int) else os.fspath(one) for one in given]


class _Results:
    """A sink that passes results to the thread that iterates over it."""

    name = "on_result"
    durable = True

    def __init__(self) -> None:
        # Holds one result, so that a slow reader sees recent frames.
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
        """Marks the end of the results."""
        self._ended.set()

    def __iter__(self) -> Iterator[StreamResult]:
        while True:
            over = self._ended.is_set()
            try:
                yield self._results.get(timeout=_POLL)
            except queue.Empty:
                if over:
                    return
