"""From a configuration to a running pipeline, and from one configuration to the next."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from trt_afdet.assets import SHIPPED_MODEL
from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.runtime.detector import Detector, open_backend
from trt_afdet.stream.analysis.filters import check_classes
from trt_afdet.stream.analysis.per_source import AnalysisOptions, SourceAnalysis
from trt_afdet.stream.analysis.shapes import Shapes, parse_shapes, read_zones
from trt_afdet.stream.config.addresses import SourceSpec, make_sink, make_source, parse_source
from trt_afdet.stream.config.schema import Config, ConfigError, Loaded, SourceConfig
from trt_afdet.stream.config.yaml_reader import Place
from trt_afdet.stream.options import join_options
from trt_afdet.stream.pipeline import DetectorLike, Pipeline, SourcePlan
from trt_afdet.stream.sinks.base import Sink, SinkRunner
from trt_afdet.support.suggest import nearest

log = logging.getLogger("trt_afdet.stream")

#: What a running pipeline cannot change.
FIXED = (
    "model", "backend", "providers", "threads", "batch", "iou", "max_det", "web", "metrics",
    "options",
)  # fmt: skip

#: What a source's stage does with its frames: changed without touching the camera.
STAGE_ONLY = (
    "every", "track", "classes", "conf", "class_conf", "min_size", "max_size", "region", "zones",
    "events",
)  # fmt: skip


@dataclass(frozen=True)
class PlannedSource:
    """A source of a configuration.

    Attributes:
        name: Unique in the pipeline, without credentials.
        spec: Where its frames come from.
        config: What is done with them.
    """

    name: str
    spec: SourceSpec
    config: SourceConfig

    def same_capture(self, other: PlannedSource) -> bool:
        """Whether the camera itself is used in the same way."""
        plain = [
            replace(
                planned.config,
                **{key: getattr(SourceConfig(uri=""), key) for key in STAGE_ONLY},
            )
            for planned in (self, other)
        ]
        return plain[0] == plain[1]


@dataclass(frozen=True)
class PlannedSink:
    """A sink of a configuration.

    Attributes:
        uri: With its options; may hold credentials.
        sink: Made, not opened.
    """

    uri: str = field(repr=False)
    sink: Sink

    @property
    def path(self) -> Path | None:
        """The file that belongs to it alone, a spool included; None if there is none."""
        path = getattr(self.sink, "path", None)
        return path if isinstance(path, Path) else None

    @property
    def target(self) -> str:
        """What only one sink can write to, whatever its options are."""
        if self.path is not None:
            return str(self.path.resolve())
        return self.sink.name if self.uri.startswith("mjpeg:") else self.uri


@dataclass(frozen=True)
class Plan:
    """What a configuration means."""

    loaded: Loaded
    sources: tuple[PlannedSource, ...]
    sinks: tuple[PlannedSink, ...]
    shapes: Mapping[str, Shapes]

    @property
    def config(self) -> Config:
        return self.loaded.config

    def lowest_conf(self) -> float:
        """The confidence from which on the detector must report."""
        return min(lowest_conf(self.config, source.config) for source in self.sources)


@dataclass(frozen=True)
class Changes:
    """What a reload did: names of sources, public names of sinks.

    Attributes:
        fixed: Keys whose change takes effect at the next start.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    sinks_added: tuple[str, ...] = ()
    sinks_removed: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{what.replace('_', ' ')}: {', '.join(names)}"
            for what, names in vars(self).items()
            if names and what != "fixed"
        ]
        if self.fixed:
            parts.append(f"at the next start: {', '.join(self.fixed)}")
        return "; ".join(parts) or "nothing has changed"


def lowest_conf(config: Config, source: SourceConfig) -> float:
    """The confidence from which on the detector must report for a source."""
    options = source.stage_options(config.conf)
    lowest = options.filters.lowest
    return min(lowest, options.track.low) if options.track is not None else lowest


def make_plan(
    loaded: Loaded,
    class_names: Sequence[str] | None,
    sinks: Mapping[str, Sink] | None = None,
    *,
    zones_needed: bool = True,
) -> Plan:
    """Works out what a configuration means; opens nothing.

    Args:
        loaded: The configuration.
        class_names: The model's; None for a first look without it.
        sinks: Sinks that exist already, by URI: they are used again.
        zones_needed: Whether a file of zones that does not exist is a mistake.

    Raises:
        ConfigError: With all mistakes.
        MissingDependencyError: If a source or sink needs a package that is not installed.
    """
    config = loaded.config
    problems: list[tuple[Place, str]] = []
    sources = _sources(config, problems)
    if class_names is not None:
        for index, source in enumerate(config.sources):
            for key, names in (("classes", source.classes), ("conf", source.class_conf)):
                try:
                    check_classes(list(names or ()), class_names)
                except InvalidValueError as error:
                    problems.append((("sources", index, key), str(error)))
    planned_sinks = _sinks(config, sinks or {}, problems)
    shapes: dict[str, Shapes] = {}
    if config.zones is not None and (zones_needed or Path(config.zones).exists()):
        try:
            shapes = read_zones(Path(config.zones))
        except AfdetError as error:
            problems.append((("zones",), str(error)))
    known = [planned.name for planned in sources]
    for name in [n for n in shapes if n not in known and class_names is not None]:
        # No mistake: the page's file may know a camera that is away for a while.
        hint = nearest(name, known)
        log.warning(
            "%s: no source is called %s%s", config.zones, name, f" - {hint}" if hint else ""
        )
    for planned in sources:
        if planned.config.zones is not None:
            shapes[planned.name] = planned.config.shapes()
    if problems:
        raise ConfigError([loaded.problem(*problem) for problem in problems])
    return Plan(loaded, tuple(sources), tuple(planned_sinks), shapes)


def open_detector(loaded: Loaded) -> Detector:
    """The model of a configuration, with the lowest confidence that any source needs.

    Raises:
        ConfigError: If the model does not fit what the configuration says.
        AfdetError: See :meth:`trt_afdet.runtime.detector.Detector.load`.
    """
    config = loaded.config
    path = Path(config.model) if config.model is not None else SHIPPED_MODEL
    suffixes = {"onnxruntime": (".onnx",), "tensorrt": (".engine", ".plan")}
    if config.backend is not None and path.suffix.lower() not in suffixes[config.backend]:
        wanted = " or ".join(suffixes[config.backend])
        text = f"runs {wanted} files (got {path.name}) - see trt-afdet build-engine"
        raise ConfigError([loaded.problem(("backend",), text)])
    backend = open_backend(path, threads=config.threads, providers=config.providers)
    try:
        lowest = min(lowest_conf(config, source) for source in config.sources)
        if backend.has_nms:
            # Such a model reports nothing below its own limit: tracking goes without that.
            reported = min(
                source.stage_options(config.conf).filters.lowest for source in config.sources
            )
            lowest = min(reported, max(lowest, backend.spec.score_threshold))
        return Detector(backend, conf=lowest, iou=config.iou, max_detections=config.max_det)
    except InvalidValueError as error:
        backend.close()
        raise ConfigError([loaded.problem(("model",), str(error))]) from error


class Deployment:
    """A pipeline made from a configuration, which can be replaced while it runs.

    Args:
        plan: The configuration.
        detector: Of the model; see :meth:`Plan.lowest_conf` for its confidence.
        class_names: The model's.
        extra_sinks: Sinks that are no part of the configuration, such as the web page.

    Raises:
        AfdetError: If a stage cannot be made.
    """

    def __init__(
        self,
        plan: Plan,
        detector: DetectorLike,
        class_names: Sequence[str],
        extra_sinks: Sequence[Sink] = (),
    ) -> None:
        self.plan = plan
        self._class_names = tuple(class_names)
        self._conf = plan.lowest_conf()
        self._lock = threading.Lock()
        self._shapes = dict(plan.shapes)
        self._stages: dict[str, SourceAnalysis] = {}
        for source in plan.sources:
            self._stages[source.name] = self._stage(plan, source, self._shapes)
        config = plan.config
        self.pipeline = Pipeline(
            detector,
            [self._source_plan(source, self._stages[source.name]) for source in plan.sources],
            [*(planned.sink for planned in plan.sinks), *extra_sinks],
            config.options.to_options(config.batch_size),
        )

    @property
    def shapes(self) -> dict[str, Shapes]:
        """The zones and lines of every source that has any, those drawn on the page included."""
        with self._lock:
            return {source: shapes for source, shapes in self._shapes.items() if shapes}

    def set_zones(self, source: str, value: object) -> None:
        """Replaces a source's zones and lines; ``value`` is as in the file of zones.

        Raises:
            InvalidValueError: If it is not what it must be.
            MissingDependencyError: If this needs a tracker and there is none.
        """
        shapes = parse_shapes(value)
        with self._lock:
            self._shapes[source] = shapes
            stage = self._stages.get(source)
        if stage is not None:
            stage.set_shapes(shapes)

    def reload(self, loaded: Loaded) -> Changes:
        """Goes on with another configuration; cameras that are the same in it notice nothing.

        Raises:
            AfdetError: If it cannot be used; everything goes on as before.
        """
        before = self.plan
        model = loaded.config.model
        if model is not None and not Path(model).is_file():
            # Used at the next start only, but then it would not start.
            raise ConfigError([loaded.problem(("model",), f"there is no such model (got {model})")])
        plan = make_plan(
            loaded,
            self._class_names,
            {planned.uri: planned.sink for planned in before.sinks},
            zones_needed=loaded.config.web is None,
        )
        old = {source.name: source for source in before.sources}
        new = {source.name: source for source in plan.sources}
        restarted = [n for n in new if n in old and not new[n].same_capture(old[n])]
        added = [n for n in new if n not in old]
        removed = [n for n in old if n not in new]
        shapes = {name: self._shapes_after(before, plan, name) for name in new}
        # All that may be refused comes first.
        fresh = {n: self._stage(plan, new[n], shapes) for n in (*added, *restarted)}
        kept = [n for n in new if n not in fresh]
        adjusted = [
            name
            for name in kept
            if shapes[name] != self._shapes.get(name, Shapes())
            or _stage_options(before, old[name]) != _stage_options(plan, new[name])
        ]
        for name in adjusted:
            self._stages[name].check(_stage_options(plan, new[name]), shapes[name])
        sinks_added, sinks_removed = self._change_sinks(before, plan)
        # Nothing from here on may be refused.
        with self.pipeline.changing():
            for name in (*removed, *restarted):
                with suppress(InvalidValueError):  # It may have been added in vain.
                    self.pipeline.remove(name)
            # Made again now that the old one gives out no more numbers.
            fresh |= {name: self._stage(plan, new[name], shapes) for name in restarted}
            with self._lock:
                for name in removed:
                    del self._stages[name]
                self._stages.update(fresh)
                self._shapes = shapes
            for name in (*restarted, *added):
                self.pipeline.add(self._source_plan(new[name], fresh[name]))
        for name in adjusted:
            stage = self._stages[name]
            stage.replace(_stage_options(plan, new[name]))
            stage.set_shapes(shapes[name])
        self.plan = plan
        return Changes(
            tuple(added),
            tuple(removed),
            tuple(restarted),
            tuple(adjusted),
            sinks_added,
            sinks_removed,
            self._fixed(before, plan),
        )

    def _fixed(self, before: Plan, plan: Plan) -> tuple[str, ...]:
        fixed = [key for key in FIXED if getattr(before.config, key) != getattr(plan.config, key)]
        if plan.lowest_conf() < self._conf:
            fixed.append(f"confidences below {self._conf:g}")
        return tuple(fixed)

    def _shapes_after(self, before: Plan, plan: Plan, name: str) -> Shapes:
        """A source's zones after a reload: what was drawn on the page outlives it."""
        wanted = plan.shapes.get(name, Shapes())
        in_file = before.config.zones is not None or plan.config.zones is not None
        if in_file or wanted != before.shapes.get(name, Shapes()):
            return wanted
        return self._shapes.get(name, wanted)

    def _change_sinks(self, before: Plan, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Opens new sinks, then closes old ones; if one does not open, all is as it was."""
        old = {planned.uri: planned for planned in before.sinks}
        new = {planned.uri: planned for planned in plan.sinks}
        coming = [planned for uri, planned in new.items() if uri not in old]
        going = [planned for uri, planned in old.items() if uri not in new]
        held = {planned.target: planned for planned in going}
        opened: list[SinkRunner] = []
        made = _Made()
        replaced: list[tuple[PlannedSink, PlannedSink]] = []
        try:
            for planned in coming:
                if planned.target not in held:
                    made.watch(planned.path)
                    opened.append(self.pipeline.open_sink(planned.sink))
            # Two sinks cannot write to the same place: there, and only there, the old one must go
            # before the new one can be opened. The place is known to work.
            for planned in coming:
                if planned.target in held:
                    replaced.append((held[planned.target], planned))
                    self.pipeline.replace_sink(held[planned.target].sink, planned.sink)
        except BaseException:
            for runner in opened:
                runner.close(self.pipeline.options.stop_within)
            made.remove()
            for old_one, new_one in replaced:
                with suppress(InvalidValueError):  # The one that did not open.
                    self.pipeline.remove_sink(new_one.sink)
                self._open_again(old_one)
            raise
        for runner in opened:
            self.pipeline.use_sink(runner)
        for planned in going:
            if all(planned is not old_one for old_one, _ in replaced):
                self.pipeline.remove_sink(planned.sink)
        return tuple(p.sink.name for p in coming), tuple(p.sink.name for p in going)

    def _open_again(self, planned: PlannedSink) -> None:
        """A sink is opened once only: a closed one comes back as a new one."""
        again = PlannedSink(planned.uri, make_sink(planned.uri))
        self.pipeline.add_sink(again.sink)
        sinks = tuple(again if p is planned else p for p in self.plan.sinks)
        self.plan = replace(self.plan, sinks=sinks)

    def _stage(
        self, plan: Plan, source: PlannedSource, shapes: Mapping[str, Shapes]
    ) -> SourceAnalysis:
        before = self._stages.get(source.name)
        return SourceAnalysis(
            source.name,
            self._class_names,
            _stage_options(plan, source),
            shapes.get(source.name),
            1 if before is None else before.next_id,
        )

    def _source_plan(self, source: PlannedSource, stage: SourceAnalysis) -> SourcePlan:
        config, spec = source.config, source.spec
        return SourcePlan(
            name=source.name,
            make=lambda: make_source(spec, source.name),
            live=spec.live,
            policy=config.policy,
            queue=config.queue,
            realtime=config.realtime,
            stage=stage,
            retry=config.retry.to_retry(),
        )


class _Made:
    """The files and folders that opening sinks brings into being, so that they can go again."""

    def __init__(self) -> None:
        self._missing: list[Path] = []

    def watch(self, path: Path | None) -> None:
        """Notes what is not there yet of a path that is about to be opened."""
        if path is not None:
            # SQLite keeps its log beside a spool.
            files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
            self._missing += [p for p in (*files, *path.absolute().parents) if not p.exists()]

    def remove(self) -> None:
        """Removes what was not there before; files first, folders if they are empty."""
        for path in sorted(self._missing, key=lambda p: -len(p.parts)):
            with suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()


def _stage_options(plan: Plan, source: PlannedSource) -> AnalysisOptions:
    return source.config.stage_options(plan.config.conf)


def _sources(config: Config, problems: list[tuple[Place, str]]) -> list[PlannedSource]:
    planned: list[PlannedSource] = []
    taken = Counter(source.name for source in config.sources if source.name is not None)
    for index, source in enumerate(config.sources):
        try:
            spec = parse_source(source.uri, **source.options)
        except AfdetError as error:
            problems.append((("sources", index, "uri"), str(error)))
            continue
        name = source.name
        if name is None:
            name, number = spec.name, 2
            while taken[name]:
                name, number = f"{spec.name} ({number})", number + 1
            taken[name] += 1
        planned.append(PlannedSource(name, spec, source))
    return planned


def _sinks(
    config: Config, known: Mapping[str, Sink], problems: list[tuple[Place, str]]
) -> list[PlannedSink]:
    planned: list[PlannedSink] = []
    places: set[str] = set()
    for index, sink in enumerate(config.sinks):
        uri = sink.uri
        if sink.options:
            uri += ("&" if "?" in uri else "?") + join_options(sink.options)
        try:
            made = PlannedSink(uri, known.get(uri) or make_sink(uri))
        except AfdetError as error:
            problems.append((("sinks", index, "uri"), str(error)))
            continue
        # Two writers spoil a file, and a spool; to a server one may well send two things.
        place = made.target
        if place in places:
            problems.append((("sinks", index, "uri"), "another sink writes to the same place"))
        places.add(place)
        planned.append(made)
    return planned
