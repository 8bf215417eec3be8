"""``cameras.yaml``: the model, the cameras with their options, and the sinks.

Pydantic reads the file into the dataclasses below and those of the pipeline, and checks it against
their annotations. Errors list every mistake with file, line and key. ``json_schema.py`` makes the
JSON Schema from the same classes.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union

from trt_afdet.errors import AfdetError, CorruptFileError, InvalidValueError, MissingFileError
from trt_afdet.stream.analysis.filters import FilterOptions
from trt_afdet.stream.analysis.per_source import AnalysisOptions
from trt_afdet.stream.analysis.shapes import Shapes, parse_shapes
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.analysis.zones import ZoneOptions
from trt_afdet.stream.batcher import Policy
from trt_afdet.stream.config.yaml_reader import Document, Place, read_document
from trt_afdet.stream.pipeline import PipelineOptions, Scheduling
from trt_afdet.stream.retry import Retry
from trt_afdet.support.fields import Count, Share, unknown_choice
from trt_afdet.support.packages import missing
from trt_afdet.support.suggest import nearest
from trt_afdet.support.text import marked_encoding, read_secret

#: Bytes of the largest accepted file.
LARGEST = 1 << 20


class ConfigError(InvalidValueError):
    """The mistakes of a configuration, one line each in ``problems``."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


#: A mistake and where it is.
Problem = tuple[Place, str]
#: Options of an address, as a mapping.
Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class SourceConfig(FilterOptions):
    """One camera or file; ``defaults`` may set all keys except ``uri`` and ``name``.

    Attributes:
        uri: Its address.
        name: Unique; in results, events, metrics and in the file of zones. Made from the address
            by default.
        options: Options of the address.
        retry: When a lost camera is tried again.
        policy: When the queue is full, drop its oldest frame (live sources), drop the newest one,
            or let the source wait (files).
        queue: Most frames that wait for the detector.
        realtime: Play a file at its own pace.
        every: Detect on one frame in so many; the tracker fills in the others.
        track: Options of the tracker; off by default.
        zones: The zones and lines of this source, instead of the file's.
        events: When zones and lines report an event.
    """

    uri: str = field(repr=False)
    name: str | None = None
    options: Options = field(default_factory=dict, repr=False)
    retry: Retry = field(default_factory=Retry)
    policy: Policy | None = None
    queue: Count | None = None
    realtime: bool = False
    every: Count = 1
    track: TrackOptions | None = None
    zones: Mapping[str, Any] | None = None
    events: ZoneOptions = field(default_factory=ZoneOptions)

    @property
    def analysis(self) -> AnalysisOptions:
        filters = FilterOptions(**{f.name: getattr(self, f.name) for f in fields(FilterOptions)})
        return AnalysisOptions(filters, self.track, self.every, self.events)

    @property
    def shapes(self) -> Shapes:
        return Shapes() if self.zones is None else parse_shapes(self.zones)


@dataclass(frozen=True, kw_only=True)
class SinkConfig:
    """Where results go.

    Attributes:
        uri: Its address.
        options: Options of the address.
    """

    uri: str = field(repr=False)
    options: Options = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """The web page. Its token comes from one of three keys, or is made at the start if needed.

    Attributes:
        address: Where to listen: ``HOST:PORT`` or a port.
        token: The token itself.
        token_file: A file that holds the token.
        token_env: An environment variable that holds the token.
        hosts: Names under which browsers reach the page.
        trusted_proxies: Addresses of reverse proxies whose headers are trusted.
        root_path: Path of the page behind a reverse proxy.
    """

    address: str = "127.0.0.1:8080"
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    token_env: str | None = None
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    root_path: str = ""

    def read_token(self) -> str | None:
        """Reads the token from its key, variable or file."""
        if self.token_env is not None:
            token = os.environ.get(self.token_env)
            if not token:
                raise InvalidValueError(f"the environment variable {self.token_env} is not set")
            return token
        if self.token_file is not None:
            return read_secret(Path(self.token_file)).strip()
        return self.token


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole ``cameras.yaml``.

    Attributes:
        sources: Cameras, streams and files.
        model: An .onnx, .engine or .plan file; the shipped model by default.
        backend: Must match the suffix of the model, which selects it by default.
        providers: Execution providers of ONNX Runtime; the CPU by default.
        threads: CPU threads of the network.
        batch: Most frames per run of the network; by default one per source, up to 8.
        conf: Lowest confidence, for sources without their own.
        iou: IoU of NMS; the model's by default.
        max_det: Most detections per frame; the model's by default.
        sinks: Where results go.
        zones: JSON file of the zones of all sources.
        web: The web page.
        metrics: Address for /metrics and /healthz alone.
        options: When frames and results wait, are dropped, or end the run.
    """

    sources: tuple[SourceConfig, ...]
    model: str | None = None
    backend: Literal["onnxruntime", "tensorrt"] | None = None
    providers: tuple[str, ...] | None = None
    threads: Count | None = None
    batch: Count | None = None
    conf: Share = FilterOptions.conf
    iou: Share | None = None
    max_det: Count | None = None
    sinks: tuple[SinkConfig, ...] = ()
    zones: str | None = None
    web: WebConfig | None = None
    metrics: str | None = None
    options: Scheduling = field(default_factory=Scheduling)

    @property
    def pipeline_options(self) -> PipelineOptions:
        """Scheduling and the batch size; by default one frame per source, up to 8."""
        batch = self.batch or min(8, len(self.sources))
        return PipelineOptions(**vars(self.options), batch=batch)

    @property
    def lowest_conf(self) -> float:
        """The lowest confidence that a source needs."""
        lowest = [source.lowest for source in self.sources]
        lowest += [source.track.low for source in self.sources if source.track is not None]
        return min(lowest)


@dataclass(frozen=True)
class Loaded:
    """A configuration, with the lines of its file; ``path`` is None for a command line."""

    config: Config  # Checked, except for the model and the addresses.
    path: Path | None = None
    document: Document = field(default_factory=Document)

    def problem(self, place: Place, text: str) -> str:
        """One line with the place and the mistake, without secrets."""
        return _problem(self.path, self.document, place, text)


def is_config_file(source: str) -> bool:
    """Whether the name of a source is a configuration, not a camera."""
    return "://" not in source and source.lower().endswith((".yaml", ".yml"))


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Loaded:
    """Reads and checks a file.

    Raises:
        MissingFileError: If it does not exist.
        ConfigError: If it contains mistakes; lists them all.
        MissingDependencyError: If PyYAML or pydantic is not installed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        got = f"{path}: {error.strerror}"
        raise MissingFileError("the configuration cannot be read", got=got) from error
    if len(content) > LARGEST:
        raise ConfigError([f"{path}: longer than {LARGEST >> 20} MiB, so not a list of cameras"])
    try:
        text = content.decode(marked_encoding(content) or "utf-8")
        document = read_document(text, str(path), environment)
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text"]) from error
    except CorruptFileError as error:
        raise ConfigError([str(error)]) from error
    if not isinstance(document.data, dict):
        raise ConfigError([f"{path}:1: must be a mapping with the key sources"])
    return _check(document, path)


def config_from(data: dict[str, Any]) -> Loaded:
    """Checks a mapping as a file would hold it; raises as :func:`load_config`."""
    return _check(Document(data), None)


def _check(document: Document, path: Path | None) -> Loaded:
    problems = list(document.problems)
    data = _merge_defaults(document.data, problems)
    problems += _unknown_keys({k: v for k, v in document.data.items() if k != "defaults"}, Config)
    problems += _unknown_keys(document.data.get("defaults"), SourceConfig, ("defaults",))
    config = None if problems else _validate(data, problems)
    if config is not None:
        sources = [
            source if "conf" in given else replace(source, conf=config.conf)
            for source, given in zip(config.sources, data["sources"], strict=True)
        ]
        config = replace(config, sources=tuple(sources))
        problems += _consistency(config, data)
    if problems or config is None:
        ordered = sorted(problems, key=lambda problem: document.line(problem[0]))
        # A mistake in the defaults repeats for every source: report it once.
        lines = dict.fromkeys(_problem(path, document, *problem) for problem in ordered)
        raise ConfigError(list(lines))
    return Loaded(config, path, document)


def _problem(path: Path | None, document: Document, place: Place, text: str) -> str:
    line = document.line(place)
    if place[:1] == ("sources",) and place not in document.lines and len(place) > 2:
        inherited: Place = ("defaults", *place[2:])
        if ("defaults", place[2]) in document.lines:
            line, place = document.line(inherited), inherited
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    where = f"{path}:{line}: " if path is not None else ""
    where += name.removeprefix(".") + (": " if name else "")
    return document.hide(where + text).replace("\n", " ")


def _merge_defaults(data: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Merges ``defaults`` into the sources and expands all short forms; adds to the problems."""
    merged = {key: value for key, value in data.items() if key != "defaults"}
    defaults = data.get("defaults")
    if defaults is not None and not isinstance(defaults, dict):
        problems.append((("defaults",), "must be a mapping"))
        defaults = None
    defaults = _long_form(defaults or {})
    for key in ("uri", "name"):
        if key in defaults:
            problems.append((("defaults", key), "set this for each source, not for all"))
    for key in ("sources", "sinks"):
        if isinstance(data.get(key), list):
            merged[key] = [{"uri": item} if isinstance(item, str) else item for item in data[key]]
    if isinstance(data.get("sources"), list):
        merged["sources"] = [_over(defaults, _long_form(source)) for source in merged["sources"]]
    web = data.get("web")
    if isinstance(web, bool):
        merged["web"] = {} if web else None
    elif isinstance(web, (str, int)):
        merged["web"] = {"address": str(web)}
    if isinstance(data.get("metrics"), int):
        merged["metrics"] = str(data["metrics"])
    # "options:" without a value is valid.
    return {key: value for key, value in merged.items() if value is not None}


def _long_form(source: Any) -> Any:
    """Expands the short forms of a source's keys."""
    if not isinstance(source, dict):
        return source
    source = dict(source)
    if isinstance(source.get("track"), bool):
        source["track"] = {} if source["track"] else None
    if isinstance(source.get("conf"), dict):
        conf = dict(source.pop("conf"))
        if "default" in conf:
            source["conf"] = conf.pop("default")
        source["class_conf"] = {**conf, **(source.get("class_conf") or {})}
    if isinstance(source.get("classes"), str):
        source["classes"] = [source["classes"]]
    for key in ("min_size", "max_size"):
        if isinstance(source.get(key), (int, float)):
            source[key] = [source[key], source[key]]
    return source


def _over(defaults: dict[str, Any], source: Any) -> Any:
    """Merges a source's keys over the defaults, mappings key by key."""
    if not isinstance(source, dict):
        return source
    result = {**defaults, **source}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(source.get(key), dict) and key != "zones":
            result[key] = {**value, **source[key]}
    return {k: v for k, v in result.items() if v is not None or k == "track"}


def _unknown_keys(value: Any, kind: Any, place: Place = ()) -> list[Problem]:
    """Keys that a dataclass does not have, at any depth."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (Union, UnionType):
        kinds = [k for k in typing.get_args(kind) if is_dataclass(k) or typing.get_args(k)]
        return _unknown_keys(value, kinds[0], place) if kinds else []
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        inner = typing.get_args(kind)[0]
        return [p for i, v in enumerate(value) for p in _unknown_keys(v, inner, (*place, i))]
    if not is_dataclass(kind) or not isinstance(value, dict):
        return []
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [f.name for f in fields(kind)]
    problems: list[Problem] = []
    for key, inner_value in value.items():
        if key in names:
            problems += _unknown_keys(inner_value, hints[key], (*place, key))
        else:
            hint = nearest(key, names) or f"known: {', '.join(names)}"
            problems.append(((*place, key), f"unknown key - {hint}"))
    return problems


def _validate(data: dict[str, Any], problems: list[Problem]) -> Config | None:
    """The configuration; None if it has mistakes, which are added to the problems."""
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise missing(error) from error
    try:
        return TypeAdapter(Config).validate_python(data)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            place, text = _known_part(tuple(item["loc"]), data), item["msg"]
            if item["type"] == "missing":
                text = "is missing"
            elif item["type"] == "literal_error":
                choices = re.findall(r"'([^']*)'", item["ctx"]["expected"])
                text = str(unknown_choice(item["input"], tuple(choices)))
            elif item["type"] == "value_error":
                text = text.removeprefix("Value error, ").removeprefix("the ")
                # Errors of check_fields begin with the name of the field.
                key, _, rest = text.partition(" ")
                if isinstance(item["input"], dict) and key in item["input"]:
                    place, text = (*place, key), rest
            problems.append((place, text[:1].lower() + text[1:]))
        return None


def _known_part(place: Place, data: Any) -> Place:
    """Removes pydantic's additions from a place, such as the names of a union's members."""
    for index, part in enumerate(place):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            missing_key = index == len(place) - 1 and isinstance(data, dict)
            return place if missing_key else place[:index]
    return place


def _consistency(config: Config, data: dict[str, Any]) -> list[Problem]:
    """Mistakes in the combination of keys."""
    problems: list[Problem] = []
    if not config.sources:
        problems.append((("sources",), "at least one source is needed"))
    names: dict[str, int] = {}
    for index, source in enumerate(config.sources):
        place: Place = ("sources", index)
        if source.name is not None:
            if not source.name.strip() or not source.name.isprintable():
                problems.append(((*place, "name"), "must be printable characters"))
            if (first := names.setdefault(source.name, index)) != index:
                text = f"sources[{first}] has the same name (got {source.name})"
                problems.append(((*place, "name"), text))
        refused = "track" in data["sources"][index] and source.track is None
        if refused and source.every > 1:
            problems.append(((*place, "track"), "every above 1 needs tracking"))
        if refused and source.zones:
            problems.append(((*place, "track"), "zones need tracking"))
        if source.zones is not None and config.zones is not None:
            text = "zones at the top names a file for all sources - use one"
            problems.append(((*place, "zones"), text))
        try:
            parse_shapes(source.zones or {})
        except AfdetError as error:
            problems.append(((*place, "zones"), str(error)))
    if config.web is not None:
        keys = ("token", "token_file", "token_env")
        given = [key for key in keys if getattr(config.web, key) is not None]
        if len(given) > 1:
            problems.append((("web", given[1]), f"{given[0]} is set too - use one"))
    return problems
