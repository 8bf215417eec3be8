"""Sinks by address.

``video:FOLDER``, ``jsonl:FILE``, ``csv:FILE``, ``mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/TOPIC]``,
``redis[s]://[USER:PASSWORD@]HOST[:PORT]/STREAM``, ``webhook+http[s]://...``,
``mjpeg://HOST:PORT``, ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH`` (``{source}`` in it is the
camera) and ``window:``; options follow as in ``jsonl:out.jsonl?fsync=always``. Sizes may be written
``2GB`` and times ``10min``. Options of a webhook that resemble none of this program's are its
server's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.addresses import (
    ENCODE,
    SINK_FORMS,
    Address,
    parse_address,
    read_number,
    read_seconds,
    read_size,
    read_truth,
    read_whole,
    split_options,
)
from trt_afdet.stream.sinks.base import Sink
from trt_afdet.stream.sinks.recorder import parse_contents
from trt_afdet.support.suggest import nearest
from trt_afdet.support.text import read_secret


def _secret_in(text: str) -> str:
    return read_secret(Path(text))


Parsers = Mapping[str, Callable[[str], Any]]

#: Options whose values are never shown.
_SECRETS = ("secret", "token", "password_file", "secret_file", "token_file")

_SPOOLED: Parsers = {
    "send": parse_contents,
    "spool": Path,
    "spool_size": read_size,
    "batch": read_whole,
    "linger": read_seconds,
}
_FILE: Parsers = {"fsync": str}
_CERTIFICATES: Parsers = {"ca": Path}


@dataclass(frozen=True)
class _Scheme:
    """A kind of address.

    Attributes:
        make: Takes the address without its query, and the options.
        options: What the query may hold, and how each value is read.
    """

    make: Callable[[str, dict[str, Any]], Sink]
    options: Parsers


def make_sink(text: str) -> Sink:
    """The sink behind an address; nothing is opened yet.

    Raises:
        InvalidValueError: If the scheme or an option is unknown or wrong; without credentials.
        MissingFileError: If a file of secrets or certificates is missing.
    """
    name, colon, _ = text.partition(":")
    name = name.lower()
    scheme = _SCHEMES.get(name) if colon else None
    if scheme is None:
        known = re.fullmatch(r"[a-z][\w+.-]{0,19}", name) if colon else None
        raise InvalidValueError(
            "unknown kind of sink",
            got=name if known else None,
            hint=(nearest(name, _SCHEMES) if known else None)
            or f"known: {', '.join(SINK_FORMS.values())}",
        )
    place, _, query = text.partition("?")
    foreign = name.startswith("webhook+")
    try:
        if "://" in SINK_FORMS[name]:
            _network(place, {})
        options, rest = _read_options(query, scheme.options, foreign=foreign)
        if foreign:
            place += f"?{rest}" if rest else ""
        return scheme.make(place, options)
    except InvalidValueError as error:
        if "@" in query:
            # What looks like an option may be a piece of a password that has a "?".
            raise InvalidValueError(f"{name}: {error.what}", hint=ENCODE) from None
        raise InvalidValueError(
            error.what if error.what.startswith(name) else f"{name}: {error.what}",
            got=error.got,
            hint=error.hint or SINK_FORMS[name],
        ) from None


def _read_options(query: str, parsers: Parsers, *, foreign: bool) -> tuple[dict[str, Any], str]:
    """The options that are ours, read, and the others as they were written."""
    options: dict[str, Any] = {}
    rest: list[str] = []
    for part in query.split("&"):
        if foreign and "=" not in part:
            rest += [part] if part else []
            continue
        for key, value in split_options(part):
            if key in parsers:
                try:
                    options[key] = parsers[key](value)
                except InvalidValueError as error:
                    raise InvalidValueError(
                        f"{key}: {error.what}",
                        got=None if key in _SECRETS else error.got,
                        hint=error.hint,
                    ) from None
            elif foreign and not get_close_matches(key, parsers, cutoff=0.8):
                rest.append(part)
            else:
                # It may be a piece of a password that has a "&" in it.
                guarded = any(name in options for name in _SECRETS)
                got = key if key.isidentifier() and len(key) <= 20 and not guarded else None
                hint = (nearest(key, parsers) if got else None) or f"it has {_listed(parsers)}"
                raise InvalidValueError("has no such option", got=got, hint=hint)
    return options, "&".join(rest)


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
    from trt_afdet.stream.sinks.text_files import JsonLinesSink

    return JsonLinesSink(_path(place), **options)


def _csv(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.text_files import CsvSink

    return CsvSink(_path(place), **options)


def _network(place: str, options: dict[str, Any]) -> Address:
    """The parts of an address; a password file goes before the address."""
    address = parse_address(place)
    if not address.host:
        raise InvalidValueError("it names no host")
    if "#" in place or "@" in address.path + address.query:
        raise InvalidValueError("an address with a '#' or '@' behind its host", hint=ENCODE)
    if "password_file" in options:
        address = replace(address, password=options.pop("password_file"))
    return address


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
        topic=unquote(address.path).lstrip("/") or DEFAULT_TOPIC,
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
        stream=unquote(address.path).lstrip("/"),
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
    address = _network(place, options)
    webhook = WebhookOptions(url=address.url(address.scheme.removeprefix("webhook+")), **known)
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

    return RtspSink(_network(place, options).url(), **options)


def _window(place: str, options: dict[str, Any]) -> Sink:
    from trt_afdet.stream.sinks.window import WindowSink

    return WindowSink()


def _positive(text: str) -> float:
    seconds = read_seconds(text)
    if not seconds > 0:
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
        "keepalive": read_whole,
        "version": str,
    },
)
_REDIS = _Scheme(
    _redis,
    {
        **_SPOOLED,
        **_CERTIFICATES,
        "db": read_whole,
        "maxlen": read_whole,
        "password_file": _secret_in,
        "timeout": _positive,
    },
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
)
_SCHEMES: dict[str, _Scheme] = {
    "video": _Scheme(
        _video,
        {
            "segment": read_seconds,
            "keep_free": read_size,
            "codec": str,
            "quality": read_whole,
            "wait": read_truth,
        },
    ),
    "jsonl": _Scheme(_jsonl, {**_FILE, "send": parse_contents}),
    "csv": _Scheme(_csv, _FILE),
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
            "quality": read_whole,
            "fps": read_number,
            "clients": read_whole,
        },
    ),
    "rtsp": _Scheme(_rtsp, {"codec": str, "bitrate": read_whole}),
    "window": _Scheme(_window, {}),
}
