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
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="*",
        help="cameras, streams and files, each as [NAME=]ADDRESS, or one cameras.yaml",
    )
    parser.add_argument(
        "--check", action="store_true", help="show the setup and every mistake in it, then exit"
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of cameras.yaml, then exit"
    )
    parser.add_argument("--model", help="model.onnx or .engine (default: the shipped one)")
    parser.add_argument(
        "--sink", action="append", metavar="URI", help="send results there; may be repeated"
    )
    parser.add_argument(
        "--web",
        nargs="?",
        const=WebConfig.address,
        metavar="ADDRESS",
        help=f"serve the web page (default address: {WebConfig.address})",
    )
    parser.add_argument("--metrics", metavar="ADDRESS", help="serve /metrics and /healthz alone")
    parser.add_argument("--track", action="store_true", default=None, help="number the objects")
    parser.add_argument(
        "--every", type=int, metavar="N", help="detect on one frame in N, track on the others"
    )
    parser.add_argument("--zones", metavar="FILE", help="JSON file of zones and lines")
    parser.add_argument("--conf", type=float, help=f"lowest confidence (default: {Config.conf})")
    parser.add_argument("--iou", type=float, help="NMS IoU (default: the model's)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="report only these")
    parser.add_argument("--threads", type=int, help="CPU threads of the network")
    parser.add_argument("--batch", type=int, help="most frames per run of the network")
    parser.add_argument(
        "--max-age",
        type=float,
        metavar="S",
        help="drop live frames that wait for more than S seconds",
    )
    parser.add_argument(
        "--realtime", action="store_true", default=None, help="play files at their own pace"
    )
    parser.add_argument(
        "--fail-fast",
        action="store_true",
        default=None,
        help="stop all sources when the first one fails for good",
    )
    parser.add_argument(
        "--give-up",
        type=int,
        metavar="N",
        help="stop trying a camera after N failures in a row (default: never)",
    )
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--quiet", action="store_true", help="print only errors and warnings")


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
    """The configuration of a command line, from its YAML or its options.

    Raises:
        AfdetError: If it contains mistakes.
    """
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
    """Moves sources that ``--web`` or ``--classes`` consumed back to ``args.source``.

    Raises:
        InvalidValueError: If the source is missing.
    """
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
        raise InvalidValueError(
            "the following arguments are required: SOURCE", hint="see trt-afdet run --help"
        )


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
    defaults = {
        "track": args.track,
        "every": args.every,
        "classes": args.classes,
        "realtime": args.realtime,
        "retry": None if args.give_up is None else {"give_up": args.give_up},
    }
    data = {
        "sources": [_named(source) for source in args.source],
        "defaults": {key: value for key, value in defaults.items() if value is not None},
        "sinks": args.sink,
        "options": {
            key: value
            for key in ("max_age", "fail_fast")
            if (value := getattr(args, key)) is not None
        },
    }
    for key in ("model", "web", "metrics", "zones", "conf", "iou", "threads", "batch"):
        data[key] = getattr(args, key)
    return {key: value for key, value in data.items() if value is not None}


def _run(args: argparse.Namespace) -> int:
    from trt_afdet.cli import ui
    from trt_afdet.cli.live import COLUMNS, View, rows
    from trt_afdet.cli.serve import Server
    from trt_afdet.live.service import Service
    from trt_afdet.stream.monitoring.systemd import Notifier

    loaded = load(args)
    with Service(loaded) as service, closing(Notifier()) as notifier:

        def reload() -> str:
            return str(service.reload(load(args)))

        loop = Server(
            service.pipeline,
            reload if loaded.path is not None else None,
            View(args.quiet),
            notifier,
            duration=args.duration,
        )
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
        spec = detector.spec
        backend = type(detector.backend).__name__
        print(
            f"model: {loaded.config.model or 'the shipped one'}, {backend}, "
            f"{len(spec.class_names)} classes: {', '.join(spec.class_names)}"
        )
        return tuple(spec.class_names)


def _describe(resolved: Resolved) -> None:
    """Prints the sources and sinks as tables."""
    from trt_afdet.cli import ui

    ui.table(
        "sources",
        ("name", "kind", "policy", "every", "track", "conf", "classes", "zones"),
        [_source_row(source, resolved) for source in resolved.sources],
    )
    ui.table(
        "sinks",
        ("sink", "kind", "loses"),
        [
            [p.sink.name, type(p.sink).__name__, "nothing" if p.sink.durable else "the oldest"]
            for p in resolved.sinks
        ],
    )


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
