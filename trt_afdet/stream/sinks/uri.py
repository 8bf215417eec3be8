"""Sinks by address.

``video:FOLDER``, ``jsonl:FILE``, ``csv:FILE``, ``mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/TOPIC]``,
``redis[s]://[USER:PASSWORD@]HOST[:PORT]/STREAM``, ``webhook+http[s]://...``,
``mjpeg://HOST:PORT``, ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH`` (``{source}`` in it is the
camera) and ``window:``; options follow as in ``jsonl:out.jsonl?fsync=always``. Sizes may be written
``2GB`` and times ``10min``. Options of a webhook that resemble none of this program's are its
server's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from trt_afdet.errors import InvalidValueError, MissingFileError
from trt_afdet.stream.sinks.base import Sink
from trt_afdet.stream.sinks.serialise import parse_contents
from trt_afdet.suggest import nearest

_SIZES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_TIMES = {
    "": 1.0,
    "ms": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def _quantity(text: str, units: Mapping[str, float], example: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        known = ", ".join(unit for unit in units if unit)
        raise InvalidValueError(
            f"must be a number like {example}", got=text, hint=known and f"units: {known}"
        )
    return float(match[1]) * units[match[2].lower()]


def parse_size(text: str) -> int:
    """``2GB``, ``500 MiB`` or a number of bytes, as bytes.

    Raises:
        InvalidValueError: If it is none of these.
    """
    return int(_quantity(text, _SIZES, "2GB"))


def parse_seconds(text: str) -> float:
    """``10min``, ``1.5h`` or a number of seconds, as seconds.

    Raises:
        InvalidValueError: If it is none of these.
    """
    return _quantity(text, _TIMES, "10min")


def _whole(text: str) -> int:
    if not text.strip().lstrip("-").isdigit():
        raise InvalidValueError("must be a whole number", got=text)
    return int(text)


def _number(text: str) -> float:
    return _quantity(text, {"": 1.0}, "12.5")


def _yes_or_no(text: str) -> bool:
    known = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in known:
        raise InvalidValueError("must be yes or no", got=text)
    return known[text.lower()]


def _secret_in(text: str) -> str:
    """The first line of a file: secrets on a command line are seen by everybody."""
    try:
        return Path(text).read_text(encoding="utf-8").splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise MissingFileError("no secret can be read from the file", got=text) from error


Parsers = Mapping[str, Callable[[str], Any]]

_SPOOLED: Parsers = {
    "send": parse_contents,
    "spool": Path,
    "spool_size": parse_size,
    "batch": _whole,
    "linger": parse_seconds,
}
_FILE: Parsers = {"fsync": str}
_CERTIFICATES: Parsers = {"ca": Path}


@dataclass(frozen=True)
class _Scheme:
    """A kind of address.

    Attributes:
        make: Takes the address without its query, and the options.
        options: What the query may hold, and how each value is read.
        form: For the hint of an error.
    """

    make: Callable[[str, dict[str, Any]], Sink]
    options: Parsers
    form: str


def make_sink(text: str) -> Sink:
    """The sink behind an address; nothing is opened yet.

    Raises:
        InvalidValueError: If the scheme or an option is unknown or wrong; without credentials.
        MissingFileError: If a file of secrets or certificates is missing.
    """
    name, colon, _ = text.partition(":")
    scheme = _SCHEMES.get(name.lower()) if colon else None
    if scheme is None:
        hint = nearest(name.lower(), _SCHEMES) if colon else None
        raise InvalidValueError(
            "no kind of sink is called so",
            got=name if colon and re.fullmatch(r"[\w+.-]{1,20}", name) else None,
            hint=hint or f"known: {', '.join(s.form for s in _SCHEMES.values())}",
        )
    place, _, query = text.partition("?")
    foreign = name.lower().startswith("webhook+")
    options, rest = _read_options(name.lower(), query, scheme.options, foreign=foreign)
    if foreign:
        place = place.partition("+")[2] + (f"?{urlencode(rest)}" if rest else "")
    try:
        return scheme.make(place, options)
    except InvalidValueError as error:
        raise InvalidValueError(
            f"{name.lower()}: {error.what}", got=error.got, hint=error.hint or scheme.form
        ) from error


def _read_options(
    scheme: str, query: str, parsers: Parsers, *, foreign: bool
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The options that are ours, read, and the others."""
    options: dict[str, Any] = {}
    rest: list[tuple[str, str]] = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in parsers:
            try:
                options[key] = parsers[key](value)
            except InvalidValueError as error:
                raise InvalidValueError(
                    f"{scheme}: {key}: {error.what}", got=error.got, hint=error.hint
                ) from error
        elif foreign and not get_close_matches(key, parsers, cutoff=0.8):
            rest.append((key, value))
        else:
            hint = nearest(key, parsers) or f"it has {_listed(parsers)}"
            raise InvalidValueError(f"{scheme}: has no such option", got=key, hint=hint)
    return options, rest


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _path(place: str) -> Path:
    """The file or folder of ``jsonl:FILE`` or ``jsonl:///FILE``."""
    text = unquote(place.partition(":")[2])
    if text.startswith("//"):
        text = "/" + text.lstrip("/")
    if not text:
        raise InvalidValueError("it names no file or folder")
    return Path(text).expanduser()


def _video(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.video import VideoSink

    return VideoSink(_path(place), **options)


def _jsonl(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.records import JsonLinesSink

    return JsonLinesSink(_path(place), **options)


def _csv(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.records import CsvSink

    return CsvSink(_path(place), **options)


@dataclass(frozen=True)
class _Address:
    host: str
    port: int | None
    user: str | None
    password: str | None
    path: str


def _network(place: str, options: dict[str, Any]) -> _Address:
    """Host, port, credentials and path of an address; a password file goes before the address."""
    try:
        parts = urlsplit(place)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidValueError("the host or port cannot be read") from error
    if not host:
        raise InvalidValueError("it names no host")
    password = None if parts.password is None else unquote(parts.password)
    return _Address(
        host=host,
        port=port,
        user=None if parts.username is None else unquote(parts.username),
        password=options.pop("password_file", password),
        path=unquote(parts.path).lstrip("/"),
    )


def _spooled(target: str, options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of the spool and the delivery out of the others."""
    from trt_afdet.stream.sinks.spool import Spool, default_spool

    path = options.pop("spool", None) or default_spool(target)
    more: dict[str, Any] = {
        key: options.pop(key) for key in ("send", "batch", "linger") if key in options
    }
    size = {"limit": options.pop("spool_size")} if "spool_size" in options else {}
    return {"spool": Spool(path, **size), **more}


def _mqtt(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.mqtt import DEFAULT_TOPIC, MqttOptions, MqttSink

    address = _network(place, options)
    known = {k: v for k, v in options.items() if k not in _SPOOLED}
    mqtt = MqttOptions(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        topic=address.path or DEFAULT_TOPIC,
        tls=place.lower().startswith("mqtts:"),
        **known,
    )
    return MqttSink(mqtt, **_spooled(mqtt.target, options))


def _redis(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.redis import RedisOptions, RedisSink

    address = _network(place, options)
    known = {k: v for k, v in options.items() if k not in _SPOOLED}
    redis = RedisOptions(
        host=address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        stream=address.path,
        tls=place.lower().startswith("rediss:"),
        **known,
    )
    return RedisSink(redis, **_spooled(redis.target, options))


def _webhook(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.webhook import WebhookOptions, WebhookSink

    for kind in ("secret", "token"):
        if f"{kind}_file" in options:
            options[kind] = options.pop(f"{kind}_file")
    known = {k: v for k, v in options.items() if k not in _SPOOLED}
    webhook = WebhookOptions(url=place, **known)
    # A post for every frame would be a burden to most servers.
    more = _spooled(webhook.target, options)
    more.setdefault("linger", 1.0)
    return WebhookSink(webhook, **more)


def _mjpeg(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.mjpeg import MjpegSink

    if "token_file" in options:
        options["token"] = options.pop("token_file")
    address = _network(place, options)
    return MjpegSink(address.host, 8081 if address.port is None else address.port, **options)


def _rtsp(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.rtsp import RtspSink

    _network(place, options)
    return RtspSink(place, **options)


def _window(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.window import WindowSink

    return WindowSink()


def _positive(text: str) -> float:
    seconds = parse_seconds(text)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidValueError("must be above 0", got=text)
    return seconds


_MQTT = _Scheme(
    _mqtt,
    {
        **_SPOOLED,
        **_CERTIFICATES,
        "cert": Path,
        "key": Path,
        "client_id": str,
        "availability": str,
        "password_file": _secret_in,
        "timeout": _positive,
        "keepalive": _whole,
    },
    "mqtt://HOST/TOPIC",
)
_REDIS = _Scheme(
    _redis,
    {
        **_SPOOLED,
        **_CERTIFICATES,
        "db": _whole,
        "maxlen": _whole,
        "password_file": _secret_in,
        "timeout": _positive,
    },
    "redis://HOST/STREAM",
)
_WEBHOOK = _Scheme(
    _webhook,
    {
        **_SPOOLED,
        **_CERTIFICATES,
        "secret": str,
        "secret_file": _secret_in,
        "token": str,
        "token_file": _secret_in,
        "timeout": _positive,
    },
    "webhook+https://HOST/PATH",
)
_SCHEMES: dict[str, _Scheme] = {
    "video": _Scheme(
        _video,
        {
            "segment": parse_seconds,
            "keep_free": parse_size,
            "codec": str,
            "quality": _whole,
            "wait": _yes_or_no,
        },
        "video:FOLDER",
    ),
    "jsonl": _Scheme(_jsonl, {**_FILE, "send": parse_contents}, "jsonl:FILE"),
    "csv": _Scheme(_csv, _FILE, "csv:FILE"),
    "mqtt": _MQTT,
    "mqtts": _MQTT,
    "redis": _REDIS,
    "rediss": _REDIS,
    "webhook+http": _WEBHOOK,
    "webhook+https": _WEBHOOK,
    "mjpeg": _Scheme(
        _mjpeg,
        {
            "token": str,
            "token_file": _secret_in,
            "quality": _whole,
            "fps": _number,
            "clients": _whole,
        },
        "mjpeg://HOST:PORT",
    ),
    "rtsp": _Scheme(_rtsp, {"codec": str, "bitrate": _whole}, "rtsp://HOST/PATH"),
    "window": _Scheme(_window, {}, "window:"),
}
