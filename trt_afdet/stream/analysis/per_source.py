"""What happens to one source's detections: filters, tracking, zones."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from trt_afdet.detections import Detections
from trt_afdet.stream.analysis.filters import DetectionFilter, FilterOptions
from trt_afdet.stream.analysis.shapes import Shapes, outside
from trt_afdet.stream.analysis.tracking import Tracker, TrackOptions
from trt_afdet.stream.analysis.zones import ZoneOptions, Zones
from trt_afdet.stream.frame import StreamFrame
from trt_afdet.support.fields import Count, check_fields

log = logging.getLogger("trt_afdet.stream")


@dataclass(frozen=True)
class AnalysisOptions:
    """What happens to a source's detections.

    Attributes:
        filters: Which detections count.
        track: How objects are followed; None: not at all, unless there are zones or frames between
            detections.
        every: The detector sees one frame in so many; in between tracks are carried on.
        zones: When something counts as an event.
    """

    filters: FilterOptions = field(default_factory=FilterOptions)
    track: TrackOptions | None = None
    every: Count = 1
    zones: ZoneOptions = field(default_factory=ZoneOptions)

    def __post_init__(self) -> None:
        check_fields(self)


class SourceAnalysis:
    """What happens to one source's detections before the sinks see them.

    Called in the order of the source's frames; ``wants_detector`` may be asked for a frame before
    ``apply`` was called with the one before it. ``replace`` and ``set_shapes`` may be called from
    any thread, the rest from the pipeline's.
    Raises InvalidValueError if the model lacks a class, MissingDependencyError without a tracker.
    """

    def __init__(
        self,
        source: str,
        class_names: tuple[str, ...],
        options: AnalysisOptions | None = None,
        shapes: Shapes | None = None,
        first_id: int = 1,
    ) -> None:
        self.source = source
        self._class_names = tuple(class_names)
        self._lock = threading.Lock()
        self._zones = Zones(shapes or Shapes(), source=source)
        self._tracker: Tracker | None = None
        self._first_id = first_id
        self._asked = 0
        self._placed: tuple[object, ...] = ()
        self.replace(options or AnalysisOptions())

    @property
    def next_id(self) -> int:
        return self._first_id if self._tracker is None else self._tracker.next_id

    @property
    def shapes(self) -> Shapes:
        return self._zones.shapes

    def replace(self, options: AnalysisOptions) -> None:
        """Goes on with other options, or raises and changes nothing; tracks live on with theirs."""
        ready = DetectionFilter(options.filters, self._class_names)
        with self._lock:
            tracker = self._tracker_for(options, self._zones.shapes)
            self._first_id = self.next_id
            self._options, self._filter, self._tracker = options, ready, tracker
            self._zones.replace(options=options.zones)

    def check(self, options: AnalysisOptions, shapes: Shapes) -> None:
        """Raises what :meth:`replace` and :meth:`set_shapes` would raise for these."""
        DetectionFilter(options.filters, self._class_names)
        self._tracker_for(options, shapes)

    def set_shapes(self, shapes: Shapes) -> None:
        """Watches other zones and lines from the next frame on; starts to track if need be."""
        with self._lock:
            self._tracker = self._tracker_for(self._options, shapes)
            self._zones.replace(shapes)

    def wants_detector(self, frame: StreamFrame) -> bool:
        """Whether the detector must see this frame; if not, ``apply`` gets None."""
        with self._lock:
            wanted = self._asked % self._options.every == 0
            self._asked += 1
            return wanted

    def apply(
        self, frame: StreamFrame, found: Detections | None
    ) -> tuple[Detections, tuple[object, ...]]:
        """The detections to report, and events."""
        height, width = frame.image.shape[:2]
        # A file is read faster or slower than it was filmed: its own time counts.
        moment = frame.captured if frame.position is None else frame.position
        with self._lock:
            ready, tracker = self._filter, self._tracker
            self._check_places(width, height)
            if found is not None:
                kept = found[ready.fitting(found, width, height)]
                strong = ready.confident(kept)
                if tracker is not None:
                    kept = tracker.update(kept, moment, strong=strong)
                    assert kept.tracker_id is not None
                    strong = strong | (kept.tracker_id >= 0)
                kept = kept[strong]
            elif tracker is not None:
                kept = tracker.carry(moment, self._class_names, width, height)
            else:
                kept = Detections.empty(self._class_names)
            size = width, height
            return kept, self._zones.update(kept, moment, wall_time=frame.wall_time, size=size)

    def _check_places(self, width: int, height: int) -> None:
        """Says once which shapes do not lie in the picture: its size is known by now."""
        shapes, region = self._zones.shapes, self._options.filters.region
        if self._placed == (shapes, region, width, height):
            return
        self._placed = (shapes, region, width, height)
        said = shapes.outside(width, height)
        if region is not None and (text := outside(region, width, height, None)) is not None:
            said.append(f"the region {text}")
        for text in said:
            log.warning("%s: %s", self.source, text)

    def _tracker_for(self, options: AnalysisOptions, shapes: Shapes) -> Tracker | None:
        wanted = options.track
        if wanted is None and (shapes or options.every > 1):
            wanted = TrackOptions()
        if wanted is None:
            return None
        if self._tracker is not None and self._tracker.options == wanted:
            return self._tracker
        return Tracker(wanted, first_id=self.next_id)
