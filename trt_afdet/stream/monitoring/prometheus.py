"""A pipeline's figures in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

from trt_afdet.stream.monitoring.health import Health
from trt_afdet.stream.monitoring.metrics import EDGES, Metrics
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot
from trt_afdet.stream.monitoring.status import State
from trt_afdet.support.packages import missing
from trt_afdet.support.version import VERSION

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: One sample per source or sink: table of the snapshot, attribute, kind, name, text.
FIGURES = (
    ("sources", "processed", "counter", "frames_processed", "Frames that reached the sinks."),
    ("sources", "detected", "counter", "frames_detected", "Frames that the detector saw."),
    ("sources", "fps", "gauge", "frames_per_second", "Over the last seconds."),
    ("queues", "received", "counter", "frames_received", "Frames captured."),
    ("queues", "waiting", "gauge", "frames_waiting", "Frames in the queue."),
    ("sinks", "written", "counter", "sink_written", "Results written."),
    ("sinks", "dropped", "counter", "sink_dropped", "Results it was too slow for."),
    ("sinks", "waiting", "gauge", "sink_waiting", "Results in its queue."),
)
DROPPED = "Frames dropped before the detector: the queue was full, or they had waited too long."


class Exposition:
    """Writes the figures; a collector of prometheus_client.

    Args:
        judge: Makes the pipeline's figures and the verdict on them.
        names: Public names of the sources.
        metrics: Of the same pipeline, for latency histograms and batches; None leaves them out.
        viewers: Browsers that watch now.

    Raises:
        MissingDependencyError: If prometheus_client is not installed.
    """

    def __init__(
        self,
        judge: Callable[[], tuple[PipelineSnapshot, Health]],
        names: PublicNames,
        metrics: Callable[[], Metrics | None],
        viewers: Callable[[], int],
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ImportError as error:
            raise missing(error, extra="web") from error
        self._judge = judge
        self._names = names
        self._sink_names = PublicNames()
        self._metrics = metrics
        self._viewers = viewers
        # The families are not declared beforehand.
        self._registry = CollectorRegistry(auto_describe=False)
        # Memory, descriptors and processor time.
        ProcessCollector(registry=self._registry)
        self._registry.register(self)  # type: ignore[arg-type]

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the format that the ``Accept`` header asks for."""
        from prometheus_client.exposition import choose_encoder

        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """All families; called by the registry for every scrape."""
        snapshot, health = self._judge()
        of = self._names.of
        healthy = health.status != "unhealthy"
        yield _family("gauge", "build_info", "Version that runs.", {(VERSION,): 1}, "version")
        yield _family("gauge", "uptime_seconds", "Since the pipeline began.", {(): snapshot.uptime})
        yield _family("gauge", "healthy", "0 if no work is done.", {(): healthy})
        yield _family("gauge", "web_viewers", "Browsers that watch.", {(): self._viewers()})
        for table, attribute, kind, name, text in FIGURES:
            label, public = ("sink", self._sink_names.of) if table == "sinks" else ("source", of)
            rows = getattr(snapshot, table).items()
            samples = {(public(key),): getattr(row, attribute) for key, row in rows}
            yield _family(kind, name, text, samples, label)
        objects = {
            (of(source), class_name): count
            for source, figures in snapshot.sources.items()
            for class_name, count in figures.objects.items()
        }
        yield _family("counter", "objects", "Detections.", objects, "source", "class")
        dropped = {
            (of(source), reason): count
            for source, queue in snapshot.queues.items()
            for reason, count in (("full", queue.dropped), ("stale", queue.stale))
        }
        yield _family("counter", "frames_dropped", DROPPED, dropped, "source", "reason")
        states = {
            (of(source), state): state == event.state
            for source, event in snapshot.states.items()
            for state in get_args(State)
        }
        yield _family(
            "gauge", "source_state", "1 for the state it is in.", states, "source", "state"
        )
        lost = {(of(source),): count for source, count in snapshot.reconnects.items()}
        yield _family("counter", "source_reconnects", "Times it was lost.", lost, "source")
        if (metrics := self._metrics()) is not None:
            runs, frames = metrics.batches()
            yield _family("counter", "batches", "Runs of the detector.", {(): runs})
            yield _family("counter", "batch_frames", "Frames in these runs.", {(): frames})
            yield self._latency(metrics, snapshot)

    def _latency(self, metrics: Metrics, snapshot: PipelineSnapshot) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(
            "trt_afdet_latency_seconds", "From capture to the sinks.", labels=["source"]
        )
        edges = [*(f"{edge:.6g}" for edge in EDGES), "+Inf"]
        for source in snapshot.sources:
            counts, total = metrics.histogram(source)
            buckets = list(zip(edges, map(float, accumulate(counts)), strict=True))
            family.add_metric([self._names.of(source)], buckets, total)
        return family


def _family(kind: str, name: str, text: str, samples: Mapping[Any, float], *labels: str) -> Metric:
    """A family with samples by the values of their labels, a tuple of texts."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    family = made(f"trt_afdet_{name}", text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, number)
    return family
