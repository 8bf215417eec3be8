"""Turns a configuration into a running pipeline, and reloads it."""

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
from trt_afdet.stream.analysis.per_source import SourceAnalysis
from trt_afdet.stream.analysis.shapes import Shapes, parse_shapes, read_zones
from trt_afdet.stream.config.addresses import SourceAddress, make_sink, make_source, parse_source
from trt_afdet.stream.config.schema import Config, ConfigError, Loaded, SourceConfig
from trt_afdet.stream.config.yaml_reader import Place
from trt_afdet.stream.options import join_options
from trt_afdet.stream.pipeline import Pipeline, SourceSpec, StreamDetector
from trt_afdet.stream.sinks.base import Sink, SinkRunner
from trt_afdet.support.suggest import nearest

log = logging.getLogger("trt_afdet.stream")

#: Keys that a running pipeline cannot change.
FIXED = (
    "model", "backend", "providers", "threads", "batch", "iou", "max_det", "web", "metrics",
    "options",
)  # fmt: skip

#: Keys whose change restarts a camera; a source's other keys change while it runs.
CAPTURE = ("uri", "options", "retry", "policy", "queue", "realtime")


@dataclass(frozen=True)
class ConfiguredSource:
    """A source of a configuration."""

    name: str  # Unique in the pipeline, without credentials.
    address: SourceAddress
    config: SourceConfig


@dataclass(frozen=True)
class ConfiguredSink:
    """A sink of a configuration, and its address with options, which may hold credentials."""

    uri: str = field(repr=False)
    sink: Sink

    @property
    def path(self) -> Path | None:
        """The file or spool that it writes; None for other sinks."""
        path = getattr(self.sink, "path", None)
        return path if isinstance(path, Path) else None

    @property
    def target(self) -> str:
        """The place that only one sink can write to, regardless of its options."""
        if self.path is not None:
            return str(self.path.resolve())
        return self.sink.name if self.uri.startswith("mjpeg:") else self.uri


@dataclass(frozen=True)
class Resolved:
    """A configuration with its parsed sources, sinks and zones."""

    loaded: Loaded
    sources: tuple[ConfiguredSource, ...]
    sinks: tuple[ConfiguredSink, ...]
    shapes: Mapping[str, Shapes]

    @property
    def config(self) -> Config:
        return self.loaded.config


@dataclass(frozen=True)
class Changes:
    """The effect of a reload: names of sources, public names of sinks.

    ``fixed`` are keys whose change applies at the next start.
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


def resolve(
    loaded: Loaded, class_names: Sequence[str] | None, sinks: Mapping[str, Sink] | None = None
) -> Resolved:
    """Parses the sources, sinks and zones of a configuration; opens nothing.

    ``class_names`` are the model's, or None for a first check without the model; ``sinks`` are
    existing ones to reuse, by URI. A ConfigError holds all mistakes.
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
    configured_sinks = _sinks(config, sinks or {}, problems)
    shapes: dict[str, Shapes] = {}
    # If the file of zones does not exist, the web page creates it.
    if config.zones is not None and (config.web is None or Path(config.zones).exists()):
        try:
            shapes = read_zones(Path(config.zones))
        except AfdetError as error:
            problems.append((("zones",), str(error)))
    known = [configured.name for configured in sources]
    for name in [n for n in shapes if n not in known and class_names is not None]:
        # Only a warning: the page's file may contain a camera that is away for a while.
        hint = nearest(name, known)
        log.warning("%s: unknown source %s%s", config.zones, name, f" - {hint}" if hint else "")
    for configured in sources:
        if configured.config.zones is not None:
            shapes[configured.name] = configured.config.shapes
    if problems:
        raise ConfigError([loaded.problem(*problem) for problem in problems])
    return Resolved(loaded, tuple(sources), tuple(configured_sinks), shapes)


def open_detector(loaded: Loaded, device: int | str | None = None) -> Detector:
    """Opens the model of a configuration, with the lowest confidence that a source needs.

    ConfigError if the model contradicts the configuration.
    """
    config = loaded.config
    path = Path(config.model) if config.model is not None else SHIPPED_MODEL
    suffixes = {"onnxruntime": (".onnx",), "tensorrt": (".engine", ".plan")}
    if config.backend is not None and path.suffix.lower() not in suffixes[config.backend]:
        wanted = " or ".join(suffixes[config.backend])
        text = f"runs {wanted} files (got {path.name}) - see trt-afdet build-engine"
        raise ConfigError([loaded.problem(("backend",), text)])
    backend = open_backend(path, device=device, threads=config.threads, providers=config.providers)
    try:
        lowest = config.lowest_conf
        if backend.has_nms:
            # Such a model reports nothing below its own limit: tracking works without weaker boxes.
            reported = min(source.lowest for source in config.sources)
            lowest = min(reported, max(lowest, backend.spec.score_threshold))
        return Detector(backend, conf=lowest, iou=config.iou, max_detections=config.max_det)
    except InvalidValueError as error:
        backend.close()
        raise ConfigError([loaded.problem(("model",), str(error))]) from error


class Deployment:
    """A pipeline whose configuration can be replaced while it runs.

    The detector's confidence is :attr:`Config.lowest_conf`; ``extra_sinks`` are those outside the
    configuration, such as the web page.
    """

    def __init__(
        self,
        resolved: Resolved,
        detector: StreamDetector,
        class_names: Sequence[str],
        extra_sinks: Sequence[Sink] = (),
    ) -> None:
        self.resolved = resolved
        self._class_names = tuple(class_names)
        self._conf = resolved.config.lowest_conf
        self._lock = threading.Lock()
        self._shapes = dict(resolved.shapes)
        self._analyses: dict[str, SourceAnalysis] = {}
        for source in resolved.sources:
            self._analyses[source.name] = self._analysis(source, self._shapes)
        self.pipeline = Pipeline(
            detector,
            [self._source_spec(source, self._analyses[source.name]) for source in resolved.sources],
            [*(configured.sink for configured in resolved.sinks), *extra_sinks],
            resolved.config.pipeline_options,
        )

    @property
    def shapes(self) -> dict[str, Shapes]:
        """Zones and lines by source, including those drawn on the page."""
        with self._lock:
            return {source: shapes for source, shapes in self._shapes.items() if shapes}

    def set_zones(self, source: str, value: object) -> None:
        """Replaces a source's zones and lines; ``value`` is as in the file of zones."""
        shapes = parse_shapes(value)
        with self._lock:
            self._shapes[source] = shapes
            analysis = self._analyses.get(source)
        if analysis is not None:
            analysis.set_shapes(shapes)

    def reload(self, loaded: Loaded) -> Changes:
        """Continues with another configuration; unchanged cameras keep running.

        Nothing changes if it contains mistakes (AfdetError).
        """
        before = self.resolved
        model = loaded.config.model
        if model is not None and not Path(model).is_file():
            # The model changes at the next start only, but that start would fail.
            raise ConfigError([loaded.problem(("model",), f"the file is missing (got {model})")])
        sinks = {configured.uri: configured.sink for configured in before.sinks}
        resolved = resolve(loaded, self._class_names, sinks)
        old = {source.name: source for source in before.sources}
        new = {source.name: source for source in resolved.sources}
        restarted = [n for n in new if n in old and _changed(CAPTURE, old[n].config, new[n].config)]
        added = [n for n in new if n not in old]
        removed = [n for n in old if n not in new]
        shapes = {name: self._shapes_after(before, resolved, name) for name in new}
        # Do everything that can fail first.
        fresh = {n: self._analysis(new[n], shapes) for n in (*added, *restarted)}
        kept = [n for n in new if n not in fresh]
        adjusted = [
            name
            for name in kept
            if shapes[name] != self._shapes.get(name, Shapes())
            or old[name].config.analysis != new[name].config.analysis
        ]
        for name in adjusted:
            self._analyses[name].check(new[name].config.analysis, shapes[name])
        sinks_added, sinks_removed = self._change_sinks(before, resolved)
        # Nothing below can fail.
        with self.pipeline.changing():
            for name in (*removed, *restarted):
                with suppress(InvalidValueError):  # The pipeline may have failed to add it.
                    self.pipeline.remove(name)
            # Made again after the old ones have ended, so that object numbers continue.
            fresh |= {name: self._analysis(new[name], shapes) for name in restarted}
            with self._lock:
                for name in removed:
                    del self._analyses[name]
                self._analyses.update(fresh)
                self._shapes = shapes
            for name in (*restarted, *added):
                self.pipeline.add(self._source_spec(new[name], fresh[name]))
        for name in adjusted:
            analysis = self._analyses[name]
            analysis.replace(new[name].config.analysis)
            analysis.set_shapes(shapes[name])
        self.resolved = resolved
        fixed = _changed(FIXED, before.config, resolved.config)
        if resolved.config.lowest_conf < self._conf:
            fixed.append(f"confidences below {self._conf:g}")
        return Changes(
            added=tuple(added),
            removed=tuple(removed),
            restarted=tuple(restarted),
            adjusted=tuple(adjusted),
            sinks_added=tuple(sinks_added),
            sinks_removed=tuple(sinks_removed),
            fixed=tuple(fixed),
        )

    def _shapes_after(self, before: Resolved, resolved: Resolved, name: str) -> Shapes:
        """A source's zones after a reload, which keeps those drawn on the page."""
        wanted = resolved.shapes.get(name, Shapes())
        in_file = before.config.zones is not None or resolved.config.zones is not None
        if in_file or wanted != before.shapes.get(name, Shapes()):
            return wanted
        return self._shapes.get(name, wanted)

    def _change_sinks(self, before: Resolved, resolved: Resolved) -> tuple[list[str], list[str]]:
        """Opens new sinks, then closes old ones; restores the old ones if a new one fails."""
        old = {configured.uri: configured for configured in before.sinks}
        new = {configured.uri: configured for configured in resolved.sinks}
        coming = [configured for uri, configured in new.items() if uri not in old]
        going = [configured for uri, configured in old.items() if uri not in new]
        held = {configured.target: configured for configured in going}
        opened: list[SinkRunner] = []
        missing: list[Path] = []
        replaced: list[tuple[ConfiguredSink, ConfiguredSink]] = []
        try:
            # Two sinks cannot write to the same place, so there the old one closes before the new
            # one opens. That place is known to work, so it comes last.
            for configured in sorted(coming, key=lambda configured: configured.target in held):
                holder = held.get(configured.target)
                if holder is None:
                    missing += _missing_parts(configured.path)
                    opened.append(self.pipeline.open_sink(configured.sink))
                else:
                    replaced.append((holder, configured))
                    self.pipeline.replace_sink(holder.sink, configured.sink)
        except BaseException:
            for runner in opened:
                runner.close(self.pipeline.options.stop_within)
            _remove(missing)
            for old_one, new_one in replaced:
                with suppress(InvalidValueError):  # This one did not open.
                    self.pipeline.remove_sink(new_one.sink)
                self._open_again(old_one)
            raise
        for runner in opened:
            self.pipeline.use_sink(runner)
        for configured in going:
            if all(configured is not old_one for old_one, _ in replaced):
                self.pipeline.remove_sink(configured.sink)
        return [p.sink.name for p in coming], [p.sink.name for p in going]

    def _open_again(self, configured: ConfiguredSink) -> None:
        """Replaces a closed sink with a new one, because a sink opens only once."""
        again = ConfiguredSink(configured.uri, make_sink(configured.uri))
        self.pipeline.use_sink(self.pipeline.open_sink(again.sink))
        sinks = tuple(again if p is configured else p for p in self.resolved.sinks)
        self.resolved = replace(self.resolved, sinks=sinks)

    def _analysis(self, source: ConfiguredSource, shapes: Mapping[str, Shapes]) -> SourceAnalysis:
        before = self._analyses.get(source.name)
        return SourceAnalysis(
            source.name,
            self._class_names,
            source.config.analysis,
            shapes.get(source.name),
            first_id=1 if before is None else before.next_id,
        )

    def _source_spec(self, source: ConfiguredSource, analysis: SourceAnalysis) -> SourceSpec:
        config, address = source.config, source.address
        return SourceSpec(
            name=source.name,
            make=lambda: make_source(address, source.name),
            live=address.live,
            policy=config.policy,
            queue=config.queue,
            realtime=config.realtime,
            analysis=analysis,
            retry=config.retry,
        )


def _changed(keys: Sequence[str], before: object, after: object) -> list[str]:
    """The keys whose values differ."""
    return [key for key in keys if getattr(before, key) != getattr(after, key)]


def _missing_parts(path: Path | None) -> list[Path]:
    """The files and folders that a sink will create."""
    if path is None:
        return []
    # SQLite keeps its log beside a spool.
    files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
    return [part for part in (*files, *path.absolute().parents) if not part.exists()]


def _remove(paths: list[Path]) -> None:
    """Removes files, then empty folders."""
    for path in sorted(paths, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def _sources(config: Config, problems: list[tuple[Place, str]]) -> list[ConfiguredSource]:
    configured: list[ConfiguredSource] = []
    taken = Counter(source.name for source in config.sources if source.name is not None)
    for index, source in enumerate(config.sources):
        try:
            address = parse_source(source.uri, **source.options)
        except AfdetError as error:
            problems.append((("sources", index, "uri"), str(error)))
            continue
        name = source.name
        if name is None:
            name, number = address.name, 2
            while taken[name]:
                name, number = f"{address.name} ({number})", number + 1
            taken[name] += 1
        configured.append(ConfiguredSource(name, address, source))
    return configured


def _sinks(
    config: Config, known: Mapping[str, Sink], problems: list[tuple[Place, str]]
) -> list[ConfiguredSink]:
    configured: list[ConfiguredSink] = []
    places: set[str] = set()
    for index, sink in enumerate(config.sinks):
        uri = sink.uri
        if sink.options:
            uri += ("&" if "?" in uri else "?") + join_options(sink.options)
        try:
            made = ConfiguredSink(uri, known.get(uri) or make_sink(uri))
        except AfdetError as error:
            problems.append((("sinks", index, "uri"), str(error)))
            continue
        # Two writers damage a file or spool; a server accepts several.
        place = made.target
        if place in places:
            problems.append((("sinks", index, "uri"), "another sink writes to the same place"))
        places.add(place)
        configured.append(made)
    return configured
