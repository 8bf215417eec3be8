"""``cameras.yaml``: the model, the cameras, what is done with each, and where results go.

The file is read into the dataclasses below and those that the parts of the pipeline take; pydantic
checks it against their annotations. Every mistake is reported, each with file, line and key.
``json_schema.py`` makes the JSON Schema from the same classes.
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

from trt_afdet.errors import (
    AfdetError,
    CorruptFileError,
    InvalidValueError,
    MissingFileError,
)
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

#: Largest file that is read, bytes.
LARGEST = 1 << 20


class ConfigError(InvalidValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: One line each.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


#: Options of an address, as a mapping.
Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class SourceConfig(FilterOptions):
    """One camera or file; all keys but ``uri`` and ``name`` may stand under ``defaults``.

    Attributes:
        uri: Its address.
        name: Unique; in results, events, metrics and in the file of zones. Made from the address
            if it is not given.
        options: Options of the address.
        retry: When a lost camera is tried again.
        policy: What a full queue does: drop the oldest frame (live sources), drop the newest one,
            or let the source wait (files).
        queue: Frames that may wait for the detector.
        realtime: Play a file at its own pace.
        every: Detect on one frame in so many; tracks are carried on in between.
        track: How objects are followed.
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
        """What is done with its detections."""
        filters = FilterOptions(**{f.name: getattr(self, f.name) for f in fields(FilterOptions)})
        return AnalysisOptions(filters, self.track, self.every, self.events)

    @property
    def shapes(self) -> Shapes:
        """Its zones and lines."""
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
    """The web page; its token from one of three places, or made at the start if it needs one.

    Attributes:
        address: Where to listen: ``HOST:PORT`` or a port.
        token: The token itself.
        token_file: A file that holds it.
        token_env: An environment variable that holds it.
        hosts: Names under which browsers reach the page.
        trusted_proxies: Addresses of reverse proxies whose headers are believed.
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
        """The token.

        Raises:
            InvalidValueError: If its variable is not set.
            MissingFileError: If its file cannot be read.
        """
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
    """A whole file.

    Attributes:
        sources: Cameras, streams and files.
        model: The .onnx, .engine or .plan file; the shipped model by default.
        backend: A mistake if the model is not one of its files; by default what the suffix says.
        providers: Execution providers of ONNX Runtime; the CPU by default.
        threads: CPU threads of the network.
        batch: Most frames per run of the network; by default one per source, up to 8.
        conf: Lowest confidence of sources that do not say.
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
        """Scheduling, with the batch: one frame of each source, up to 8, unless the file says."""
        batch = self.batch or min(8, len(self.sources))
        return PipelineOptions(**vars(self.options), batch=batch)

    @property
    def lowest_conf(self) -> float:
        """The confidence from which on the detector must report."""
        lowest = [source.lowest for source in self.sources]
        lowest += [source.track.low for source in self.sources if source.track is not None]
        return min(lowest)


@dataclass(frozen=True)
class Loaded:
    """A configuration, and where in its file everything is.

    Attributes:
        config: Valid in itself; whether the model and the addresses are is another matter.
        path: The file; None for one made from a command line.
        document: Lines and secrets of the file.
    """

    config: Config
    path: Path | None = None
    document: Document = field(default_factory=Document)

    def problem(self, place: Place, text: str) -> str:
        """One line that says what is wrong, and where; without secrets."""
        return _problem(self.path, self.document, place, text)


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Loaded:
    """Reads and checks a file.

    Raises:
        MissingFileError: If it does not exist.
        ConfigError: If anything in it is wrong, with all mistakes.
        MissingDependencyError: If PyYAML or pydantic is not installed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise MissingFileError(
            "the configuration cannot be read", got=f"{path}: {error.strerror}"
        ) from error
    if len(content) > LARGEST:
        raise ConfigError([f"{path}: longer than {LARGEST >> 20} MiB; this is no list of cameras"])
    try:
        document = read_document(
            content.decode(marked_encoding(content) or "utf-8"), str(path), environment
        )
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: this is no UTF-8 text"]) from error
    except CorruptFileError as error:
        raise ConfigError([str(error)]) from error
    if not isinstance(document.data, dict):
        raise ConfigError([f"{path}:1: a list of cameras is a mapping with sources and more"])
    return _check(document, path)


def config_from(data: dict[str, Any]) -> Loaded:
    """A configuration from what a file would hold.

    Raises:
        ConfigError: If anything in it is wrong, with all mistakes.
        MissingDependencyError: If pydantic is not installed.
    """
    return _check(Document(data), None)


def _check(document: Document, path: Path | None) -> Loaded:
    problems = list(document.problems)
    data, more = _merge_defaults(document.data)
    problems += more
    problems += _unknown_keys({k: v for k, v in document.data.items() if k != "defaults"}, Config)
    problems += _unknown_keys(document.data.get("defaults"), SourceConfig, ("defaults",))
    config: Config | None = None
    if not problems:
        checked = _validate(data)
        if isinstance(checked, Config):
            sources = [
                source if "conf" in given else replace(source, conf=checked.conf)
                for source, given in zip(checked.sources, data["sources"], strict=True)
            ]
            config = replace(checked, sources=tuple(sources))
            problems += _consistency(config, data)
        else:
            problems += checked
    if problems or config is None:
        ordered = sorted(problems, key=lambda problem: document.line(problem[0]))
        # What is wrong in the defaults is wrong in every source: once is enough.
        raise ConfigError(
            list(dict.fromkeys(_problem(path, document, *problem) for problem in ordered))
        )
    return Loaded(config, path, document)


def _problem(path: Path | None, document: Document, place: Place, text: str) -> str:
    line = document.line(place)
    if place[:1] == ("sources",) and place not in document.lines and len(place) > 2:
        inherited: Place = ("defaults", *place[2:])
        if ("defaults", place[2]) in document.lines:
            line, place = document.line(inherited), inherited
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    where = f"{path}:{line}: " if path is not None else ""
    where += name.removeprefix(".")
    return document.hide(f"{where}{': ' if name else ''}{text}").replace("\n", " ")


def _merge_defaults(data: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[Place, str]]]:
    """The file with ``defaults`` worked into the sources and all short forms written out."""
    problems: list[tuple[Place, str]] = []
    merged = {key: value for key, value in data.items() if key != "defaults"}
    defaults = data.get("defaults")
    if defaults is not None and not isinstance(defaults, dict):
        problems.append((("defaults",), "must be a mapping"))
        defaults = None
    defaults = _long_form(defaults or {})
    for key in ("uri", "name"):
        if key in defaults:
            problems.append((("defaults", key), "belongs to each source, not to all"))
    sources = data.get("sources")
    if isinstance(sources, list):
        merged["sources"] = [
            _over(defaults, _long_form({"uri": source} if isinstance(source, str) else source))
            for source in sources
        ]
    if isinstance(data.get("sinks"), list):
        merged["sinks"] = [{"uri": s} if isinstance(s, str) else s for s in data["sinks"]]
    web = data.get("web")
    if web is True or isinstance(web, (str, int)):
        merged["web"] = {} if web is True else None if web is False else {"address": str(web)}
    if isinstance(data.get("metrics"), int):
        merged["metrics"] = str(data["metrics"])
    # "options:" with nothing below it is no mistake.
    return {key: value for key, value in merged.items() if value is not None}, problems


def _long_form(source: Any) -> Any:
    """A source's keys with their short forms written out."""
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
    """The defaults with a source's own keys on top; mappings are merged key by key."""
    if not isinstance(source, dict):
        return source
    result = {**defaults, **source}
    for key, value in defaults.items():
        if isinstance(value, dict) and isinstance(source.get(key), dict) and key != "zones":
            result[key] = {**value, **source[key]}
    return {k: v for k, v in result.items() if v is not None or k == "track"}


def _unknown_keys(value: Any, kind: Any, place: Place = ()) -> list[tuple[Place, str]]:
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
    problems: list[tuple[Place, str]] = []
    for key, inner_value in value.items():
        if key in names:
            problems += _unknown_keys(inner_value, hints[key], (*place, key))
        else:
            hint = nearest(key, names) or f"known: {', '.join(names)}"
            problems.append(((*place, key), f"unknown key - {hint}"))
    return problems


def _validate(data: dict[str, Any]) -> Config | list[tuple[Place, str]]:
    """The configuration, or what is wrong with it."""
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise missing(error) from error
    try:
        return TypeAdapter(Config).validate_python(data)
    except ValidationError as error:
        problems: list[tuple[Place, str]] = []
        for item in error.errors(include_url=False):
            place, text = _known_part(tuple(item["loc"]), data), item["msg"]
            if item["type"] == "missing":
                text = "is missing"
            elif item["type"] == "literal_error":
                choices = re.findall(r"'([^']*)'", item["ctx"]["expected"])
                text = str(unknown_choice(item["input"], tuple(choices)))
            elif item["type"] == "value_error":
                text = text.removeprefix("Value error, ").removeprefix("the ")
                # A class that checks its fields names the one.
                key, _, rest = text.partition(" ")
                if isinstance(item["input"], dict) and key in item["input"]:
                    place, text = (*place, key), rest
            problems.append((place, text[:1].lower() + text[1:]))
        return problems


def _known_part(place: Place, data: Any) -> Place:
    """A place without what pydantic adds to it, such as the names of a union's members."""
    known: list[str | int] = []
    for index, part in enumerate(place):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if index == len(place) - 1 and isinstance(data, dict):  # A key that is missing.
                known.append(part)
            break
        known.append(part)
    return tuple(known)


def _consistency(config: Config, data: dict[str, Any]) -> list[tuple[Place, str]]:
    """What single values cannot tell."""
    problems: list[tuple[Place, str]] = []
    if not config.sources:
        problems.append((("sources",), "at least one source is needed"))
    names: dict[str, int] = {}
    for index, source in enumerate(config.sources):
        place: Place = ("sources", index)
        if source.name is not None:
            if not source.name.strip() or not source.name.isprintable():
                problems.append(((*place, "name"), "must be printable characters"))
            if source.name in names:
                first = names[source.name]
                problems.append(
                    ((*place, "name"), f"sources[{first}] has the same name (got {source.name})")
                )
            names.setdefault(source.name, index)
        refused = "track" in data["sources"][index] and source.track is None
        if refused and source.every > 1:
            problems.append(((*place, "track"), "every above 1 needs tracking in between"))
        if refused and source.zones:
            problems.append(((*place, "track"), "zones need tracking"))
        if source.zones is not None and config.zones is not None:
            problems.append(
                ((*place, "zones"), "the file of zones at the top holds every source's - use one")
            )
        try:
            parse_shapes(source.zones or {})
        except AfdetError as error:
            problems.append(((*place, "zones"), str(error)))
    if config.web is not None:
        given = [
            key
            for key in ("token", "token_file", "token_env")
            if getattr(config.web, key) is not None
        ]
        if len(given) > 1:
            problems.append((("web", given[1]), f"{given[0]} is given already - use one"))
    return problems
