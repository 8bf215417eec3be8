"""Says what an address means, and makes the source behind it.

| address | what |
|---|---|
| ``/dev/video0``, ``v4l2://0?format=MJPG&width=1280&height=720`` | a camera on this machine |
| ``csi://0?width=1920&height=1080&fps=30`` | a camera of a Jetson |
| ``rtsp://user:password@host/path``, ``rtsps://`` | a camera in the network |
| ``http://host/video.mjpg``, ``https://host/live.m3u8`` | MJPEG, HLS, videos on a web server |
| ``udp://@239.0.0.1:1234``, ``rtp://``, ``rtmp://``, ``tcp://``, ``x.sdp`` | streams |
| ``clip.mp4``, ``file:///data/clip.mp4`` | a video |
| ``picture.png``, ``folder/``, ``shots/*.jpg`` | pictures |
| ``gst://videotestsrc ! videoconvert`` | a GStreamer pipeline |
| ``test://?fps=30`` | a moving pattern |

Options stand in the query of an address. Where the query belongs to a camera (``rtsp``, ``http``,
other streams) they stand behind a ``#``, which is never sent:
``rtsp://host/1?subtype=1#transport=udp&timeout=3``.
All may also be given apart from the address.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from trt_afdet.errors import InvalidValueError
from trt_afdet.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, is_video_file
from trt_afdet.stream.addresses import (
    ENCODE,
    SOURCE_FRAGMENT,
    SOURCE_SCHEMES,
    Address,
    join_options,
    parse_address,
    scheme_of,
    split_options,
    unknown_scheme,
)
from trt_afdet.stream.sources.base import Source
from trt_afdet.stream.sources.gstreamer import GstOptions, gst_source
from trt_afdet.stream.sources.jetson_csi import CsiOptions, csi_source
from trt_afdet.stream.sources.jetson_nvdec import (
    is_jetson,
    jetson_file_source,
    jetson_rtsp_source,
)
from trt_afdet.stream.sources.options import read_options
from trt_afdet.stream.sources.picture_files import PictureOptions, PicturesSource
from trt_afdet.stream.sources.rtsp_http import (
    HttpOptions,
    RtspOptions,
    StreamOptions,
    http_source,
    rtsp_source,
    stream_source,
)
from trt_afdet.stream.sources.test_pattern import Pattern, TestPatternSource
from trt_afdet.stream.sources.v4l2 import V4l2Options, V4l2Source
from trt_afdet.stream.sources.video_file import FileOptions, VideoFileSource
from trt_afdet.support.redact import redact

_DEVICE = re.compile(r"/dev/video(\d+)")


@dataclass(frozen=True)
class SourceSpec:
    """What an address means.

    Attributes:
        uri: What is opened; may hold credentials.
        kind: ``v4l2``, ``csi``, ``gst``, ``rtsp``, ``http``, ``stream``, ``file``, ``pictures`` or
            ``test``.
        name: For people and logs; without credentials.
        live: See :class:`Source`.
        options: As its kind has them.
    """

    uri: str = field(repr=False)
    kind: str
    name: str
    live: bool
    options: Any


def parse_source(text: str, **options: object) -> SourceSpec:
    """Reads an address.

    Nothing is opened; of paths it is looked up what is there.

    Args:
        text: See the module.
        options: Of the source; they have precedence over those in the address.

    Raises:
        InvalidValueError: If the scheme, an option or the address itself is not acceptable; the
            text names the nearest one and holds no credentials.
    """
    text = text.strip()
    if not text or "\0" in text:
        raise InvalidValueError("a source has no address")
    scheme = scheme_of(text)
    if scheme is None:
        return _path(text, options)
    if scheme not in SOURCE_SCHEMES:
        raise unknown_scheme("source", scheme, SOURCE_SCHEMES)
    rest = text.partition("://")[2]
    if scheme == "gst":
        return _gst(rest, options)
    if scheme in SOURCE_FRAGMENT:
        return _network(text, options)
    where, _, query = rest.partition("?")
    where = unquote(where)
    given = {**dict(split_options(query)), **options}
    if scheme == "test":
        return _test(where, given)
    if scheme == "file":
        where = where.removeprefix("localhost")
        if not where.startswith("/") or "\0" in where:
            raise InvalidValueError(
                "file:// takes an absolute path", got=_shown(text), hint="file:///data/clip.mp4"
            )
        return _path(where, given)
    return _v4l2(where, given) if scheme == "v4l2" else _csi(where, given)


def make_source(spec: SourceSpec, name: str | None = None) -> Source:
    """The source behind an address, not yet opened.

    Args:
        spec: From :func:`parse_source`.
        name: For people, instead of its own.
    """
    name = name or spec.name
    options = spec.options
    if spec.kind == "v4l2":
        return V4l2Source(spec.uri, name, options)
    if spec.kind == "csi":
        return csi_source(int(spec.uri), name, options)
    if spec.kind == "gst":
        return gst_source(spec.uri, name, options)
    if spec.kind == "rtsp":
        if options.decoder == "nvdec" and is_jetson():
            return jetson_rtsp_source(spec.uri, name, options)
        return rtsp_source(spec.uri, name, options)
    if spec.kind == "http":
        return http_source(spec.uri, name, options, live=spec.live)
    if spec.kind == "stream":
        return stream_source(spec.uri, name, options)
    if spec.kind == "test":
        return TestPatternSource(spec.uri, name)
    if spec.kind == "pictures":
        return PicturesSource(spec.uri, name)
    if options.decoder == "nvdec" and is_jetson():
        return jetson_file_source(spec.uri, name)
    return VideoFileSource(spec.uri, name, options)


def _path(text: str, options: dict[str, Any]) -> SourceSpec:
    if match := _DEVICE.fullmatch(text):
        return _v4l2(match[1], options)
    # pathlib's own would raise for an unknown user.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    try:
        path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidValueError(
                "a path that is too long", got=f"{len(text)} characters"
            ) from None
        raise InvalidValueError(
            "cannot be read", got=f"{_shown(text) or 'a path'}: {error.strerror}"
        ) from None
    suffix = path.suffix.lower()
    pattern = glob.has_magic(text) and not path.exists()
    if suffix == ".sdp" and path.is_file():
        stream = read_options(StreamOptions, "a session description", options)
        return SourceSpec(str(path), "stream", text, True, stream)
    if path.is_file() and path.stat().st_size:
        picture = not is_video_file(path)
    else:
        picture = suffix in PICTURE_SUFFIXES
    if path.is_dir() or pattern or picture:
        read = read_options(PictureOptions, "a source of pictures", options)
        return SourceSpec(str(path), "pictures", text, False, read)
    if not path.exists() and suffix not in VIDEO_SUFFIXES:
        hint = f"did you mean /dev/video{text}?" if text.isdecimal() else None
        raise InvalidValueError("no such file, and no address either", got=_shown(text), hint=hint)
    return SourceSpec(str(path), "file", text, False, read_options(FileOptions, "a video", options))


def _shown(text: str) -> str | None:
    """A text for an error; nothing of one that may be an address with a password."""
    return None if "@" in text else redact(text)


def _v4l2(where: str, options: dict[str, Any]) -> SourceSpec:
    if where.isdecimal():
        where = f"/dev/video{int(where)}"
    elif not where.startswith("/dev/"):
        raise InvalidValueError(
            "v4l2:// takes a number or a device", got=_shown(where), hint="v4l2://0"
        )
    return SourceSpec(where, "v4l2", where, True, read_options(V4l2Options, "v4l2://", options))


def _csi(where: str, options: dict[str, Any]) -> SourceSpec:
    if not where.isdecimal():
        raise InvalidValueError(
            "csi:// takes the number of a camera", got=_shown(where), hint="csi://0"
        )
    number = str(int(where))
    read = read_options(CsiOptions, "csi://", options)
    return SourceSpec(number, "csi", f"csi://{number}", True, read)


def _gst(pipeline: str, options: dict[str, Any]) -> SourceSpec:
    if not pipeline.strip():
        raise InvalidValueError("gst:// needs a pipeline", hint="gst://videotestsrc ! videoconvert")
    read = read_options(GstOptions, "gst://", options)
    return SourceSpec(pipeline, "gst", redact(f"gst://{pipeline}"), read.live, read)


def _test(where: str, options: dict[str, Any]) -> SourceSpec:
    if where:
        raise InvalidValueError(
            "test:// has options only", got=_shown(where), hint="test://?fps=30"
        )
    uri = f"test://?{join_options(options)}" if options else "test://"
    pattern = Pattern.parse(uri)
    return SourceSpec(uri, "test", uri, TestPatternSource(uri).live, pattern)


def _network(text: str, options: dict[str, Any]) -> SourceSpec:
    address = parse_address(text)
    scheme = address.scheme
    if not address.host and scheme not in ("udp", "rtp"):
        raise InvalidValueError(f"{scheme}:// needs a host", hint=f"{scheme}://HOST/path")
    given = {**dict(split_options(address.fragment)), **options}
    if "@" in address.fragment and address.user is None:
        # What looks like an option may be a piece of a password that has a "#".
        try:
            return _network_spec(address, given)
        except InvalidValueError as error:
            raise InvalidValueError(error.what, hint=ENCODE) from None
    return _network_spec(address, given)


def _network_spec(address: Address, given: dict[str, Any]) -> SourceSpec:
    scheme = address.scheme
    place = f"{scheme}://"
    if scheme.startswith("rtsp"):
        return SourceSpec(
            address.url(), "rtsp", address.shown, True, read_options(RtspOptions, place, given)
        )
    if not scheme.startswith("http"):
        return _stream(address, given)
    read = read_options(HttpOptions, place, given)
    suffix = Path(address.path).suffix.lower()
    live = read.live == "yes" or (read.live == "auto" and suffix not in VIDEO_SUFFIXES)
    return SourceSpec(address.url(), "http", address.shown, live, read)


def _stream(address: Address, given: dict[str, Any]) -> SourceSpec:
    scheme = address.scheme
    read = read_options(StreamOptions, f"{scheme}://", given)
    if address.port is None and not scheme.startswith("rtmp"):
        raise InvalidValueError(f"{scheme}:// needs a port", hint=f"{scheme}://HOST:PORT")
    url = address.url()
    if scheme in ("udp", "rtp") and address.user is None and address.password is None:
        # udp://@239.0.0.1:1234, as VLC and FFmpeg write "receive there".
        url = url.replace("://", "://@", 1) if scheme == "udp" else url
    return SourceSpec(url, "stream", address.shown, True, read)
