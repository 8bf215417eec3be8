"""The registry of source and sink addresses, and the objects they create.

Parsing, ``run --help``, hints of errors and docs/cameras.md use :data:`SOURCES` and :data:`SINKS`.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trt_afdet.errors import InvalidValueError
from trt_afdet.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_video_file
from trt_afdet.stream.addresses import ENCODE, Address, parse_address, scheme_of
from trt_afdet.stream.options import (
    Reader,
    Size,
    join_options,
    options_of,
    read_options,
    read_values,
    split_options,
)
from trt_afdet.stream.sinks.base import Sink
from trt_afdet.stream.sinks.delivery import SpooledSink
from trt_afdet.stream.sinks.mjpeg import MjpegSink
from trt_afdet.stream.sinks.mqtt import DEFAULT_TOPIC, MqttOptions, MqttSink
from trt_afdet.stream.sinks.redis import RedisOptions, RedisSink
from trt_afdet.stream.sinks.rtsp import RtspSink
from trt_afdet.stream.sinks.spool import Spool, default_spool
from trt_afdet.stream.sinks.text_files import CsvSink, JsonLinesSink
from trt_afdet.stream.sinks.video import VideoSink
from trt_afdet.stream.sinks.webhook import WebhookOptions, WebhookSink
from trt_afdet.stream.sinks.window import WindowSink
from trt_afdet.stream.sources.base import Source
from trt_afdet.stream.sources.gstreamer import GstOptions, gst_source
from trt_afdet.stream.sources.jetson import (
    CsiOptions,
    csi_source,
    is_jetson,
    jetson_file_source,
    jetson_rtsp_source,
)
from trt_afdet.stream.sources.network_options import HttpOptions, RtspOptions, StreamOptions
from trt_afdet.stream.sources.picture_files import PicturesSource
from trt_afdet.stream.sources.rtsp_http import http_source, rtsp_source, stream_source
from trt_afdet.stream.sources.test_pattern import Pattern, TestPatternSource
from trt_afdet.stream.sources.v4l2 import V4l2Options, V4l2Source
from trt_afdet.stream.sources.video_file import FileOptions, VideoFileSource
from trt_afdet.support.redact import redact
from trt_afdet.support.suggest import nearest

_DEVICE = re.compile(r"/dev/video(\d+)")


@dataclass(frozen=True)
class Scheme:
    """A kind of address.

    Attributes:
        example: An example, for help and hints.
        what: A description in a few words.
        options: Its options.
        make: For a source: makes a :class:`SourceAddress` from the text after ``://`` (or, if the
            query is the peer's, from the parsed address) and the options, which are not read yet.
            For a sink: makes the sink from its parsed address, or from the text after the colon if
            it has none, and the options as read.
        peers_query: The query belongs to the peer, and options follow a ``#``.
    """

    example: str
    what: str
    options: Mapping[str, Reader]
    make: Callable[..., Any]
    peers_query: bool = False


@dataclass(frozen=True)
class SourceAddress:
    """The parsed address of a source.

    Attributes:
        uri: The address or path to open; may hold credentials.
        kind: ``v4l2``, ``csi``, ``gst``, ``rtsp``, ``http``, ``stream``, ``file``, ``pictures`` or
            ``test``.
        name: For messages and logs; without credentials.
        live: See :class:`Source`.
        options: The options class of its kind.
    """

    uri: str = field(repr=False)
    kind: str
    name: str
    live: bool
    options: Any


def listed() -> str:
    """All addresses, one per line, for ``--help``."""
    lines = []
    for title, schemes in (("sources", SOURCES), ("sinks", SINKS)):
        lines += ["", f"{title}:"]
        shown = {scheme.example: scheme.what for scheme in schemes.values()}
        lines += [f"  {example:<41} {what}" for example, what in shown.items()]
    return "\n".join(lines[1:])


# ---- Sources.


def parse_source(text: str, **options: object) -> SourceAddress:
    """Reads the address of a source; looks at paths, but opens nothing.

    The options override those in the address. An InvalidValueError names the nearest valid scheme
    or option and never shows credentials.
    """
    text = text.strip()
    if not text or "\0" in text:
        raise InvalidValueError("a source needs an address")
    name = scheme_of(text)
    if name is None:
        return _path(text, options)
    scheme = SOURCES.get(name)
    if scheme is None:
        raise _unknown("source", name, SOURCES, ", ".join(SOURCES))
    if scheme.peers_query:
        return _network_source(text, options)
    rest = text.partition("://")[2]
    if name == "gst":  # A pipeline may hold any character.
        return _gst(rest, options)
    where, _, query = rest.partition("?")
    spec: SourceAddress = scheme.make(unquote(where), {**dict(split_options(query)), **options})
    return spec


def _unknown(what: str, name: str | None, known: Iterable[str], listing: str) -> InvalidValueError:
    # The text before a colon may be half a password.
    got = name if name is not None and re.fullmatch(r"[a-z][a-z0-9+.-]{0,19}", name) else None
    hint = (nearest(got, known) if got else None) or f"one of {listing}"
    got = f"{got}://" if got and what == "source" else got
    return InvalidValueError(f"unknown {what} type", got=got, hint=hint)


def make_source(spec: SourceAddress, name: str | None = None) -> Source:
    """Makes the source of an address without opening it; ``name`` replaces the address's name."""
    return _SOURCE_MAKERS[spec.kind](spec, name or spec.name)


def _rtsp_source(spec: SourceAddress, name: str) -> Source:
    if spec.options.decoder == "nvdec" and is_jetson():
        return jetson_rtsp_source(spec.uri, name, spec.options)
    return rtsp_source(spec.uri, name, spec.options)


def _file_source(spec: SourceAddress, name: str) -> Source:
    if spec.options.decoder == "nvdec" and is_jetson():
        return jetson_file_source(spec.uri, name)
    return VideoFileSource(spec.uri, name, spec.options)


_SOURCE_MAKERS: dict[str, Callable[[SourceAddress, str], Source]] = {
    "v4l2": lambda spec, name: V4l2Source(spec.uri, name, spec.options),
    "csi": lambda spec, name: csi_source(spec.uri, name, spec.options),
    "gst": lambda spec, name: gst_source(spec.uri, name, spec.options),
    "rtsp": _rtsp_source,
    "http": lambda spec, name: http_source(spec.uri, name, spec.options, live=spec.live),
    "stream": lambda spec, name: stream_source(spec.uri, name, spec.options),
    "test": lambda spec, name: TestPatternSource(spec.uri, name),
    "pictures": lambda spec, name: PicturesSource(spec.uri, name),
    "file": _file_source,
}


def _path(text: str, options: dict[str, Any]) -> SourceAddress:
    if match := _DEVICE.fullmatch(text):
        return _v4l2(match[1], options)
    # Path.expanduser raises for an unknown user.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    try:
        path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidValueError("the path is too long", got=f"{len(text)} characters") from None
        got = f"{_shown(text) or 'a path'}: {error.strerror}"
        raise InvalidValueError("cannot be read", got=got) from None
    suffix = path.suffix.lower()
    if suffix == ".sdp" and path.is_file():
        stream = read_options(StreamOptions, "a session description", options)
        return SourceAddress(str(path), "stream", text, True, stream)
    if path.is_file() and path.stat().st_size:
        pictures = not is_video_file(path)
    else:
        pattern = glob.has_magic(text) and not path.exists()
        pictures = path.is_dir() or pattern or suffix in PICTURE_SUFFIXES
    if pictures:
        read_values({}, "a source of pictures", options)
        return SourceAddress(str(path), "pictures", text, False, None)
    if not path.exists() and suffix not in VIDEO_SUFFIXES:
        hint = f"did you mean /dev/video{text}?" if text.isdecimal() else None
        raise InvalidValueError("no such file, and not an address", got=_shown(text), hint=hint)
    read = read_options(FileOptions, "a video", options)
    return SourceAddress(str(path), "file", text, False, read)


def _shown(text: str) -> str | None:
    """The text for an error; None if it may hold a password."""
    return None if "@" in text else redact(text)


def _wrong(what: str, where: str, example: str) -> InvalidValueError:
    return InvalidValueError(what, got=_shown(where), hint=example)


def _file(where: str, options: dict[str, Any]) -> SourceAddress:
    where = where.removeprefix("localhost")
    if not where.startswith("/") or "\0" in where:
        raise _wrong("file:// takes an absolute path", where, "file:///data/clip.mp4")
    return _path(where, options)


def _v4l2(where: str, options: dict[str, Any]) -> SourceAddress:
    if where.isdecimal():
        where = f"/dev/video{int(where)}"
    elif not where.startswith("/dev/"):
        raise _wrong("v4l2:// takes a number or a device", where, "v4l2://0")
    return SourceAddress(where, "v4l2", where, True, read_options(V4l2Options, "v4l2", options))


def _csi(where: str, options: dict[str, Any]) -> SourceAddress:
    if not where.isdecimal():
        raise _wrong("csi:// takes the number of a camera", where, "csi://0")
    number = str(int(where))
    read = read_options(CsiOptions, "csi", options)
    return SourceAddress(number, "csi", f"csi://{number}", True, read)


def _gst(pipeline: str, options: dict[str, Any]) -> SourceAddress:
    if not pipeline.strip():
        raise InvalidValueError("gst:// needs a pipeline", hint="gst://videotestsrc ! videoconvert")
    read = read_options(GstOptions, "gst", options)
    return SourceAddress(pipeline, "gst", redact(f"gst://{pipeline}"), read.live, read)


def _test(where: str, options: dict[str, Any]) -> SourceAddress:
    if where:
        raise _wrong("test:// has options only", where, "test://?fps=30")
    uri = f"test://?{join_options(options)}" if options else "test://"
    return SourceAddress(uri, "test", uri, TestPatternSource(uri).live, Pattern.parse(uri))


def _network_source(text: str, options: dict[str, Any]) -> SourceAddress:
    address = parse_address(text)
    scheme = address.scheme
    if not address.host and scheme not in ("udp", "rtp"):
        raise InvalidValueError(f"{scheme}:// needs a host", hint=f"{scheme}://HOST/path")
    given = {**dict(split_options(address.fragment)), **options}
    try:
        spec: SourceAddress = SOURCES[scheme].make(address, given)
    except InvalidValueError as error:
        if "@" in address.fragment and address.user is None:
            # The option may be a piece of a password that contains "#".
            raise InvalidValueError(error.what, hint=ENCODE) from None
        raise
    return spec


def _rtsp(address: Address, options: dict[str, Any]) -> SourceAddress:
    read = read_options(RtspOptions, address.scheme, options)
    return SourceAddress(address.url(), "rtsp", address.shown, True, read)


def _http(address: Address, options: dict[str, Any]) -> SourceAddress:
    read = read_options(HttpOptions, address.scheme, options)
    video = Path(address.path).suffix.lower() in VIDEO_SUFFIXES
    live = read.live == "yes" or (read.live == "auto" and not video)
    return SourceAddress(address.url(), "http", address.shown, live, read)


def _stream(address: Address, options: dict[str, Any]) -> SourceAddress:
    scheme = address.scheme
    read = read_options(StreamOptions, scheme, options)
    if address.port is None and not scheme.startswith("rtmp"):
        raise InvalidValueError(f"{scheme}:// needs a port", hint=f"{scheme}://HOST:PORT")
    url = address.url()
    if scheme == "udp" and address.user is None and address.password is None:
        # VLC and FFmpeg write "receive there" as udp://@239.0.0.1:1234.
        url = url.replace("://", "://@", 1)
    return SourceAddress(url, "stream", address.shown, True, read)


def _source(example: str, what: str, options: Any, make: Any) -> Scheme:
    return Scheme(example, what, options_of(options), make)


def _network_scheme(example: str, what: str, options: Any, make: Any) -> Scheme:
    return Scheme(example, what, options_of(options), make, peers_query=True)


def _protocol(example: str, what: str) -> Scheme:
    return _network_scheme(example, what, StreamOptions, _stream)


_RTSP = _network_scheme(
    "rtsp://USER:PASSWORD@HOST/PATH, rtsps://",
    "a camera in the network, over TCP",
    RtspOptions,
    _rtsp,
)
_HTTP = _network_scheme(
    "http://HOST/PATH, https://", "MJPEG, HLS, videos on a web server", HttpOptions, _http
)
_RTMP = _protocol("rtmp://HOST/APP/KEY, rtmps://", "RTMP")

#: Sources by the scheme of their address. An address without a scheme is a path or a device.
SOURCES: dict[str, Scheme] = {
    "v4l2": _source("/dev/video0, v4l2://0", "a camera of this machine", V4l2Options, _v4l2),
    "csi": _source("csi://0", "a camera of a Jetson", CsiOptions, _csi),
    "rtsp": _RTSP,
    "rtsps": _RTSP,
    "http": _HTTP,
    "https": _HTTP,
    "udp": _protocol("udp://@239.0.0.1:1234", "MPEG-TS and more"),
    "tcp": _protocol("tcp://HOST:PORT", "MPEG-TS and more"),
    "rtp": _protocol("rtp://:5004, FILE.sdp", "RTP; an SDP file describes the content"),
    "rtmp": _RTMP,
    "rtmps": _RTMP,
    "srt": _protocol("srt://HOST:PORT", "SRT, if PyAV's FFmpeg has it"),
    "file": _source("clip.mp4, file:///data/clip.mp4", "a video or pictures", FileOptions, _file),
    "gst": _source("gst://PIPELINE", "a GStreamer pipeline", GstOptions, _gst),
    "test": _source("test://?fps=30", "a moving pattern with known boxes", Pattern, _test),
}

# ---- Sinks.


def make_sink(text: str) -> Sink:
    """Makes the sink of an address without opening it; errors never show credentials."""
    name, colon, _ = text.partition(":")
    name = name.lower()
    scheme = SINKS.get(name) if colon else None
    if scheme is None:
        examples = ", ".join(scheme.example for scheme in SINKS.values())
        raise _unknown("sink", name if colon else None, SINKS, examples)
    place, _, query = text.partition("?")
    try:
        if name.startswith("webhook+"):
            query, rest = _split_foreign(query, scheme.options)
            place += f"?{rest}" if rest else ""
        network = "://" in scheme.example
        where = _network(place) if network else unquote(place.partition(":")[2])
        options = read_values(scheme.options, name, dict(split_options(query)))
        sink: Sink = scheme.make(where, options)
    except InvalidValueError as error:
        what = error.what if error.what.startswith(name) else f"{name}: {error.what}"
        if "@" in query:
            # The option may be a piece of a password that contains "?".
            raise InvalidValueError(what, hint=ENCODE) from None
        raise InvalidValueError(what, got=error.got, hint=error.hint or scheme.example) from None
    return sink


def _split_foreign(query: str, known: Iterable[str]) -> tuple[str, str]:
    """Splits the query of a webhook into our options and those of its server."""
    ours: list[str] = []
    others: list[str] = []
    for part in filter(None, query.split("&")):
        key = unquote(part.partition("=")[0])
        is_ours = "=" in part and get_close_matches(key, known, cutoff=0.8)
        (ours if is_ours else others).append(part)
    return "&".join(ours), "&".join(others)


def _network(place: str) -> Address:
    """Parses an address that must name a host."""
    address = parse_address(place)
    if not address.host:
        raise InvalidValueError("the host is missing")
    if "#" in place or "@" in address.path + address.query:
        raise InvalidValueError("an address with a '#' or '@' behind its host", hint=ENCODE)
    return address


def _file_sink(cls: Callable[..., Sink]) -> Callable[[str, dict[str, Any]], Sink]:
    """A maker of sinks for ``jsonl:FILE`` or ``jsonl:///FILE``."""

    def make(text: str, options: dict[str, Any]) -> Sink:
        if text.startswith("//"):
            text = "/" + text.lstrip("/")
        if not text:
            raise InvalidValueError("the file or folder is missing")
        # Path.expanduser raises for an unknown user.
        return cls(Path(os.path.expanduser(text)), **options)  # noqa: PTH111

    return make


@dataclass(frozen=True)
class _SpoolOptions:
    """Options of the spool, where records wait for a server."""

    spool: Path | None = None
    spool_size: Size | None = None


def _spooled(
    cls: Callable[..., Sink], settings: Callable[..., Any], options: dict[str, Any], **parts: Any
) -> Sink:
    """Makes a sink with a spool; ``parts`` are settings from the address itself."""
    own = {key: options.pop(key) for key in options_of(settings) if key in options}
    made = settings(**{**parts, **own})
    path = options.pop("spool", None) or default_spool(made.target)
    size = {"limit": options.pop("spool_size")} if "spool_size" in options else {}
    return cls(made, spool=Spool(path, **size), **options)


def _broker(address: Address) -> dict[str, Any]:
    """The settings of a broker's connection."""
    return {
        "host": address.host,
        "port": address.port,
        "user": address.user,
        "password": address.password,
        "tls": address.scheme in ("mqtts", "rediss"),
    }


def _mqtt(address: Address, options: dict[str, Any]) -> Sink:
    topic = unquote(address.path).lstrip("/") or DEFAULT_TOPIC
    return _spooled(MqttSink, MqttOptions, options, topic=topic, **_broker(address))


def _redis(address: Address, options: dict[str, Any]) -> Sink:
    stream = unquote(address.path).lstrip("/")
    return _spooled(RedisSink, RedisOptions, options, stream=stream, **_broker(address))


def _webhook(address: Address, options: dict[str, Any]) -> Sink:
    url = address.url(address.scheme.removeprefix("webhook+"))
    # Most servers cannot handle a request for every frame.
    return _spooled(WebhookSink, WebhookOptions, {"linger": 1.0, **options}, url=url)


def _mjpeg(address: Address, options: dict[str, Any]) -> Sink:
    if address.port is not None:
        options["port"] = address.port
    return MjpegSink(address.host, **options)


def _rtsp_sink(address: Address, options: dict[str, Any]) -> Sink:
    return RtspSink(address.url(), **options)


def _sink(example: str, what: str, make: Any, *options: Any) -> Scheme:
    # The address itself contains these.
    without = ("host", "port", "tls", "topic")
    found = {n: o for cls in options for n, o in options_of(cls, without).items()}
    return Scheme(example, what, found, make)


def _files(example: str, what: str, cls: Callable[..., Sink]) -> Scheme:
    return _sink(example, what, _file_sink(cls), cls)


def _server(example: str, what: str, make: Any, options: Any) -> Scheme:
    return _sink(example, what, make, options, _SpoolOptions, SpooledSink)


#: Sinks by the scheme of their address.
SINKS: dict[str, Scheme] = {
    "video": _files("video:FOLDER", "annotated MP4 per camera", VideoSink),
    "jsonl": _files("jsonl:FILE", "a line of JSON per frame", JsonLinesSink),
    "csv": _files("csv:FILE", "a line per detection", CsvSink),
    "mqtt": _server("mqtt://HOST/TOPIC", "an MQTT broker", _mqtt, MqttOptions),
    "mqtts": _server("mqtts://HOST/TOPIC", "the same, encrypted", _mqtt, MqttOptions),
    "redis": _server("redis://HOST/STREAM", "a Redis stream", _redis, RedisOptions),
    "rediss": _server("rediss://HOST/STREAM", "the same, encrypted", _redis, RedisOptions),
    "webhook+http": _server(
        "webhook+http://HOST/PATH", "POSTs with retries", _webhook, WebhookOptions
    ),
    "webhook+https": _server(
        "webhook+https://HOST/PATH", "the same, encrypted", _webhook, WebhookOptions
    ),
    "mjpeg": _sink(
        "mjpeg://HOST:PORT", "a stream per camera for browsers and VLC", _mjpeg, MjpegSink
    ),
    "rtsp": _sink("rtsp://HOST/PATH", "pushed to an RTSP server", _rtsp_sink, RtspSink),
    "window": _sink("window:", "on the screen", lambda where, options: WindowSink()),
}
