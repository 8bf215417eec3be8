"""``trt-afdet run``: detect on cameras and streams until they end."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_afdet.cli import ui
from trt_afdet.errors import AfdetError, InvalidValueError

if TYPE_CHECKING:
    from trt_afdet.stream.config.deployment import ConfiguredSource, Resolved
    from trt_afdet.stream.config.schema import Loaded

SUMMARY = "detect on cameras and streams, with tracking, zones and sinks"

EPILOG = """\
examples:
  trt-afdet run rtsp://10.0.0.5/stream --web
  trt-afdet run door=/dev/video0 yard=rtsp://10.0.0.5/stream --track --sink jsonl:found.jsonl
  trt-afdet run 'test://?fps=10' --duration 5
  trt-afdet run --check cameras.yaml
  trt-afdet run cameras.yaml

Ctrl-C or SIGTERM stops within a second; durable sinks write what they have received. A second
Ctrl-C ends at once. SIGHUP reads the YAML again; unchanged cameras keep running.
docs/cameras.md explains the YAML and the options of addresses.
"""

#: Options that a cameras.yaml replaces.
_IN_FILE = (
    "model", "sink", "web", "metrics", "track", "every", "zones", "fail_fast", "batch", "max_age",
    "realtime", "give_up", "conf", "iou", "classes", "threads",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trt_afdet.stream.config.addresses import listed
    from trt_afdet.stream.config.schema import Config, WebConfig

    parser.epilog = f"{EPILOG}\n{listed()}\n"
    add = parser.add_argument
    text = "cameras, streams and files, each as [NAME=]ADDRESS, or one cameras.yaml"
    add("source", metavar="SOURCE", nargs="*", help=text)
    add("--check", action="store_true", help="show the setup and every mistake in it, then exit")
    add("--schema", action="store_true", help="print the JSON Schema of cameras.yaml, then exit")
    add("--model", help="model.onnx or .engine (default: the shipped one)")
    add("--sink", action="append", metavar="URI", help="send results there; may be repeated")
    text = f"serve the web page (default address: {WebConfig.address})"
    add("--web", nargs="?", const=WebConfig.address, metavar="ADDRESS", help=text)
    add("--metrics", metavar="ADDRESS", help="serve /metrics and /healthz alone")
    switch: dict[str, Any] = {"action": "store_true", "default": None}
    add("--track", **switch, help="number the objects")
    add("--every", type=int, metavar="N", help="detect on one frame in N, track on the others")
    add("--zones", metavar="FILE", help="JSON file of zones and lines")
    add("--conf", type=float, help=f"lowest confidence (default: {Config.conf})")
    add("--iou", type=float, help="NMS IoU (default: the model's)")
    add("--classes", nargs="+", metavar="NAME", help="report only these")
    add("--threads", type=int, help="CPU threads of the network")
    add("--batch", type=int, help="most frames per run of the network")
    text = "drop live frames that wait for more than S seconds"
    add("--max-age", type=float, metavar="S", help=text)
    add("--realtime", **switch, help="play files at their own pace")
    add("--fail-fast", **switch, help="stop all sources when the first one fails for good")
    text = "stop trying a camera after N failures in a row (default: never)"
    add("--give-up", type=int, metavar="N", help=text)
    add("--duration", type=float, metavar="S", help="stop after S seconds")
    add("--quiet", action="store_true", help="print only errors and warnings")


def run(args: argparse.Namespace) -> int:
    from trt_afdet.stream.config.schema import ConfigError

    if args.schema:
        from trt_afdet.stream.config.json_schema import json_schema

        print(json.dumps(json_schema(), indent=2))
        return 0
    if args.duration is not None and not args.duration > 0:
        raise InvalidValueError("--duration must be above 0 seconds", got=args.duration)
    try:
        return _check(args) if args.check else _run(args)
    except ConfigError as error:
        return _complain(error.problems)


def load(args: argparse.Namespace) -> Loaded:
    """The configuration of a command line, from its YAML or its options."""
    from trt_afdet.stream.config.schema import config_from, is_config_file, load_config

    collect_sources(args)
    files = [source for source in args.source if is_config_file(source)]
    if not files:
        return config_from(_as_data(args))
    if len(args.source) > 1:
        raise InvalidValueError("give one cameras.yaml, or sources", got=args.source[1])
    for name in _IN_FILE:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise InvalidValueError(f"{option} belongs in the YAML", got=files[0])
    return load_config(Path(files[0]))


def collect_sources(args: argparse.Namespace) -> None:
    """Moves sources that ``--web`` or ``--classes`` consumed back to ``args.source``."""
    from trt_afdet.stream.config.schema import WebConfig

    if args.web is not None and _is_source(args.web):
        args.source.insert(0, args.web)
        args.web = WebConfig.address
    if not args.source:
        while args.classes and _is_source(args.classes[-1]):
            args.source.insert(0, args.classes.pop())
    if args.classes == []:
        raise InvalidValueError("--classes needs a name before the source")
    if not args.source:
        what = "the following arguments are required: SOURCE"
        raise InvalidValueError(what, hint="see trt-afdet run --help")


def _is_source(word: str) -> bool:
    """Whether a word must be a camera, a file or a YAML, not an address to listen on or a class."""
    from trt_afdet.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES

    if re.fullmatch(r"(?:[\w.-]+|\[[\da-fA-F:.%]+\]):\d{1,5}|\d{1,5}", word):
        return False
    known = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, ".yaml", ".yml")
    return "://" in word or "/" in word or word.lower().endswith(known) or Path(word).exists()


def _named(source: str) -> dict[str, str]:
    """Splits ``door=rtsp://...`` into name and address, unless a file has this name."""
    name, _, uri = source.partition("=")
    if uri and re.fullmatch(r"\w[\w.-]*", name) and not Path(source).exists():
        return {"name": name, "uri": uri}
    return {"uri": source}


def _as_data(args: argparse.Namespace) -> dict[str, Any]:
    """The options as the mapping that a YAML file would hold."""

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    retry = {} if args.give_up is None else {"retry": given("give_up")}
    return {
        "sources": [_named(source) for source in args.source],
        "defaults": given("track", "every", "classes", "realtime") | retry,
        **({} if args.sink is None else {"sinks": args.sink}),
        "options": given("max_age", "fail_fast"),
        **given("model", "web", "metrics", "zones", "conf", "iou", "threads", "batch"),
    }


def _run(args: argparse.Namespace) -> int:
    from trt_afdet.cli.live import COLUMNS, View, rows
    from trt_afdet.cli.serve import Server
    from trt_afdet.live.service import Service
    from trt_afdet.stream.monitoring.systemd import Notifier

    loaded = load(args)
    with Service(loaded) as service, closing(Notifier()) as notifier:
        again = None if loaded.path is None else lambda: str(service.reload(load(args)))
        loop = Server(service.pipeline, again, View(args.quiet), notifier, duration=args.duration)
        try:
            return loop.run()
        finally:
            if not args.quiet:
                snapshot = service.pipeline.snapshot()
                ui.table("cameras", COLUMNS, rows(snapshot))
                if snapshot.sinks:
                    counts = [[name, *map(str, sink[:2])] for name, sink in snapshot.sinks.items()]
                    ui.table("sinks", ("sink", "results", "dropped"), counts)


def _check(args: argparse.Namespace) -> int:
    """Prints the setup; returns 0, or 2 if it contains mistakes."""
    from trt_afdet.live.service import web_server
    from trt_afdet.stream.config.deployment import resolve
    from trt_afdet.stream.config.schema import ConfigError

    loaded = load(args)
    problems: list[str] = []
    names: tuple[str, ...] | None = None
    try:
        names = _try_model(loaded)
    except ConfigError as error:
        problems += error.problems
    except AfdetError as error:
        problems.append(loaded.problem(("model",), str(error)))
    try:
        resolved = resolve(loaded, names)
    except ConfigError as error:
        problems += error.problems
    else:
        _describe(resolved)
    web = loaded.config.web
    if web is not None and not problems:
        try:
            web_server(resolved.config, resolved.shapes)
            print(f"web page: {web.address}")
        except AfdetError as error:
            problems.append(loaded.problem(("web",), str(error)))
    if problems:
        return _complain(problems)
    print(f"ok: {len(loaded.config.sources)} sources, {len(loaded.config.sinks)} sinks")
    return 0


def _try_model(loaded: Loaded) -> tuple[str, ...]:
    """Runs the model once; its class names."""
    import numpy as np

    from trt_afdet.stream.config.deployment import open_detector

    with open_detector(loaded) as detector:
        detector(np.zeros((64, 64, 3), np.uint8))
        names = tuple(detector.spec.class_names)
        what = f"{loaded.config.model or 'the shipped one'}, {type(detector.backend).__name__}"
        print(f"model: {what}, {len(names)} classes: {', '.join(names)}")
        return names


def _describe(resolved: Resolved) -> None:
    """Prints the sources and sinks as tables."""
    columns = ("name", "kind", "policy", "every", "track", "conf", "classes", "zones")
    ui.table("sources", columns, [_source_row(source, resolved) for source in resolved.sources])
    loses = {True: "nothing", False: "the oldest"}
    sinks = [placed.sink for placed in resolved.sinks]
    rows = [[sink.name, type(sink).__name__, loses[sink.durable]] for sink in sinks]
    ui.table("sinks", ("sink", "kind", "loses"), rows)


def _source_row(source: ConfiguredSource, resolved: Resolved) -> list[str]:
    config, shapes = source.config, resolved.shapes.get(source.name)
    tracked = config.track is not None or config.every > 1 or bool(shapes)
    return [
        source.name,
        source.address.kind,
        config.policy or ("drop-oldest" if source.address.live else "wait"),
        str(config.every),
        "yes" if tracked else "no",
        f"{config.conf:g}" + ("*" if config.class_conf else ""),
        ", ".join(config.classes) if config.classes else "all",
        str(len(shapes.all)) if shapes else "-",
    ]


def _complain(problems: Iterable[str]) -> int:
    for problem in problems:
        print(f"trt-afdet: error: {problem}", file=sys.stderr)
    return 2
