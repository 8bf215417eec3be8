"""The figures of a pipeline for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, get_args

from trt_afdet import __version__
from trt_afdet.errors import MissingDependencyError
from trt_afdet.stream.monitoring.health import Health
from trt_afdet.stream.monitoring.metrics import EDGES, Metrics
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot
from trt_afdet.stream.monitoring.status import State

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Exposition:
    """Writes the figures in Prometheus' text format.

    Args:
        snapshot: The pipeline's figures and what they mean, now.
        names: Public names of the sources.
        metrics: Of the same pipeline, for latency histograms and batches; None leaves them out.
        viewers: Browsers that watch now.

    Raises:
        MissingDependencyError: If prometheus_client is not installed.
    """

    def __init__(
        self,
        snapshot: Callable[[], tuple[PipelineSnapshot, Health]],
        names: PublicNames,
        metrics: Callable[[], Metrics | None],
        viewers: Callable[[], int],
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ImportError as error:
            raise MissingDependencyError(
                "prometheus_client cannot be imported",
                got=error,
                hint='pip install "trt-afdet[web]"',
            ) from error
        self._snapshot = snapshot
        self._names = names
        self._sink_names = PublicNames()
        self._metrics = metrics
        self._viewers = viewers
        self._registry = CollectorRegistry(auto_describe=False)
        # Memory, descriptors and processor time: what one looks at when something runs for months.
        ProcessCollector(registry=self._registry)
        self._registry.register(self)  # type: ignore[arg-type]

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the format that the ``Accept`` header asks for."""
        from prometheus_client.exposition import choose_encoder

        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing is fixed beforehand; called by the registry."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All families; called by the registry for every scrape."""
        from prometheus_client.core import GaugeMetricFamily as Gauge

        snapshot, health = self._snapshot()
        build = Gauge("trt_afdet_build_info", "Version that runs.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield Gauge("trt_afdet_uptime_seconds", "Since the pipeline began.", value=snapshot.uptime)
        yield Gauge(
            "trt_afdet_healthy", "0 if no work is done.", value=health.status != "unhealthy"
        )
        yield Gauge("trt_afdet_web_viewers", "Browsers that watch.", value=self._viewers())
        yield from self._sources(snapshot)
        yield from self._lanes(snapshot)
        yield from self._states(snapshot)
        yield from self._sinks(snapshot)
        metrics = self._metrics()
        if metrics is not None:
            yield from self._detector(metrics, snapshot)

    def _sources(self, snapshot: PipelineSnapshot) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        processed = Counter(
            "trt_afdet_frames_processed", "Frames that reached the sinks.", labels=["source"]
        )
        detected = Counter(
            "trt_afdet_frames_detected", "Frames that the detector saw.", labels=["source"]
        )
        fps = Gauge("trt_afdet_frames_per_second", "Over the last seconds.", labels=["source"])
        objects = Counter("trt_afdet_objects", "Detections.", labels=["source", "class"])
        for name, figures in snapshot.sources.items():
            source = self._names.of(name)
            processed.add_metric([source], figures.processed)
            detected.add_metric([source], figures.detected)
            fps.add_metric([source], figures.fps)
            for class_name, number in figures.objects.items():
                objects.add_metric([source, class_name], number)
        return processed, detected, fps, objects

    def _lanes(self, snapshot: PipelineSnapshot) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        received = Counter("trt_afdet_frames_received", "Frames captured.", labels=["source"])
        dropped = Counter(
            "trt_afdet_frames_dropped",
            "Frames dropped before the detector: the queue was full, or they had waited too long.",
            labels=["source", "reason"],
        )
        waiting = Gauge("trt_afdet_frames_waiting", "Frames in the queue.", labels=["source"])
        for name, lane in snapshot.lanes.items():
            source = self._names.of(name)
            received.add_metric([source], lane.received)
            dropped.add_metric([source, "full"], lane.dropped)
            dropped.add_metric([source, "stale"], lane.stale)
            waiting.add_metric([source], lane.waiting)
        return received, dropped, waiting

    def _states(self, snapshot: PipelineSnapshot) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        state = Gauge(
            "trt_afdet_source_state", "1 for the state it is in.", labels=["source", "state"]
        )
        for name, event in snapshot.states.items():
            for possible in get_args(State):
                state.add_metric([self._names.of(name), possible], event.state == possible)
        reconnects = Counter("trt_afdet_source_reconnects", "Times it was lost.", labels=["source"])
        for name, number in snapshot.reconnects.items():
            reconnects.add_metric([self._names.of(name)], number)
        return state, reconnects

    def _sinks(self, snapshot: PipelineSnapshot) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        written = Counter("trt_afdet_sink_written", "Results written.", labels=["sink"])
        dropped = Counter("trt_afdet_sink_dropped", "Results it was too slow for.", labels=["sink"])
        waiting = Gauge("trt_afdet_sink_waiting", "Results in its queue.", labels=["sink"])
        for name, figures in snapshot.sinks.items():
            sink = [self._sink_names.of(name)]
            written.add_metric(sink, figures[0])
            dropped.add_metric(sink, figures[1])
            waiting.add_metric(sink, figures[2])
        return written, dropped, waiting

    def _detector(self, metrics: Metrics, snapshot: PipelineSnapshot) -> Iterable[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import HistogramMetricFamily as Histogram

        runs, frames = metrics.batches()
        yield Counter("trt_afdet_batches", "Runs of the detector.", value=runs)
        yield Counter("trt_afdet_batch_frames", "Frames in these runs.", value=frames)
        latency = Histogram(
            "trt_afdet_latency_seconds", "From capture to the sinks.", labels=["source"]
        )
        for name in snapshot.sources:
            counts, total = metrics.histogram(name)
            below, buckets = 0, []
            for edge, count in zip((*EDGES, float("inf")), counts, strict=True):
                below += count
                buckets.append((f"{edge:.6g}" if edge < float("inf") else "+Inf", float(below)))
            latency.add_metric([self._names.of(name)], buckets, total)
        yield latency
