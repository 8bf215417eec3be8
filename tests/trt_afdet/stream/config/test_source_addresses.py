"""What an address means, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.stream.config.addresses import SOURCES, make_source, parse_source
from trt_afdet.stream.sources.jetson import CsiOptions, csi_pipeline, file_pipeline, rtsp_pipeline
from trt_afdet.stream.sources.network_options import RtspOptions


@pytest.mark.parametrize(
    ("text", "kind", "uri", "name", "live"),
    [
        ("/dev/video2", "v4l2", "/dev/video2", "/dev/video2", True),
        ("v4l2://0", "v4l2", "/dev/video0", "/dev/video0", True),
        ("v4l2:///dev/v4l/by-id/cam", "v4l2", "/dev/v4l/by-id/cam", "/dev/v4l/by-id/cam", True),
        ("csi://1", "csi", "1", "csi://1", True),
        ("rtsp://cam/1", "rtsp", "rtsp://cam/1", "rtsp://cam/1", True),
        ("RTSPS://cam:322/1", "rtsp", "rtsps://cam:322/1", "rtsps://cam:322/1", True),
        (
            "rtsp://u:p@[fe80::1]:554/1?subtype=1#transport=udp", "rtsp",
            "rtsp://u:p@[fe80::1]:554/1?subtype=1", "rtsp://[fe80::1]:554/1?subtype=1", True,
        ),
        ("http://cam/mjpg?token=abc", "http", "http://cam/mjpg?token=abc",
         "http://cam/mjpg?token=***", True),
        ("https://cam/live.m3u8", "http", "https://cam/live.m3u8", "https://cam/live.m3u8", True),
        ("http://host/clip.mp4", "http", "http://host/clip.mp4", "http://host/clip.mp4", False),
        ("clip.mp4", "file", "clip.mp4", "clip.mp4", False),
        ("file:///a%20b.mp4", "file", "/a b.mp4", "/a b.mp4", False),
        ("shots/*.jpg", "pictures", "shots/*.jpg", "shots/*.jpg", False),
        ("one.png", "pictures", "one.png", "one.png", False),
        ("HTTP://CAM/1", "http", "http://CAM/1", "http://CAM/1", True),
        ("udp://@239.0.0.1:1234", "stream", "udp://@239.0.0.1:1234", "udp://239.0.0.1:1234", True),
        ("rtp://:5004", "stream", "rtp://:5004", "rtp://:5004", True),
        ("RTMP://u:p@cam/app/key", "stream", "rtmp://u:p@cam/app/key", "rtmp://cam/app/key", True),
        ("tcp://cam:9000#format=mpegts", "stream", "tcp://cam:9000", "tcp://cam:9000", True),
        ("gst://videotestsrc ! jpegenc", "gst", "videotestsrc ! jpegenc",
         "gst://videotestsrc ! jpegenc", True),
        ("test://?fps=5", "test", "test://?fps=5", "test://?fps=5", True),
        ("test://?frames=5", "test", "test://?frames=5", "test://?frames=5", False),
    ],
)  # fmt: skip
def test_addresses(text: str, kind: str, uri: str, name: str, live: bool) -> None:
    spec = parse_source(text)
    assert (spec.kind, spec.uri, spec.name, spec.live) == (kind, uri, name, live)
    made = make_source(spec, "front door")
    assert (made.name, made.live) == ("front door", live)
    assert make_source(spec).name == name


def test_folders_are_pictures(tmp_path: Path) -> None:
    assert parse_source(str(tmp_path)).kind == "pictures"
    odd = tmp_path / "clip[1].mp4"
    odd.write_bytes(b"x")
    assert parse_source(str(odd)).kind == "file"
    (tmp_path / "noname").write_bytes(b"x")
    assert parse_source(str(tmp_path / "noname")).kind == "file"


def test_options_in_an_address_and_beside_it() -> None:
    assert parse_source("rtsp://c/1#transport=udp&timeout=3").options.timeout == 3.0
    spec = parse_source("rtsp://c/1#transport=udp&timeout=3", transport="http", verify=True)
    assert (spec.options.transport, spec.options.timeout, spec.options.verify) == (
        "http",
        3.0,
        True,
    )
    spec = parse_source("v4l2://0?format=MJPG&width=1280&height=720&fps=29.97")
    assert (spec.options.format, spec.options.width, spec.options.fps) == ("MJPG", 1280, 29.97)
    assert parse_source("v4l2://0?fps=30", fps=15).options.fps == 15
    assert parse_source("http://host/clip.mp4", live="yes").live
    assert not parse_source("http://host/video", live="no").live
    assert not parse_source("gst://filesrc location=a ! decodebin", live=False).live
    assert parse_source("test://?fps=5", width=64).options.width == 64
    assert parse_source("clip.mp4", decoder="nvdec", device=1).options.device == 1
    # The query of a camera's address is the camera's.
    assert parse_source("rtsp://c/1?timeout=x").uri == "rtsp://c/1?timeout=x"


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("rstp://cam/1", {}, r"unknown source type \(got rstp://\) - did you mean 'rtsp'"),
        ("ftp4711://cam", {}, "one of v4l2, csi"),
        ("rtsp://cam/1", {"transprot": "udp"}, "did you mean 'transport'"),
        ("rtsp://cam/1#timeout=soon", {}, r"timeout must be a number like 10min \(got soon\)"),
        ("rtsp://cam/1#timeout=0", {}, "timeout must be at least 0.1"),
        ("rtsp://cam/1", {"timeout": "nan"}, "must be a number"),
        ("rtsp://cam/1", {"timeout": True}, "must be a number"),
        ("rtsp://cam/1#transport=upd", {}, "did you mean 'udp'"),
        ("rtsp://cam/1", {"verify": "maybe"}, "must be yes or no"),
        ("v4l2://0?width=1280", {}, "width and height go together"),
        ("v4l2://0?width=12.5&height=3", {}, "must be a whole number"),
        ("v4l2://0?format=H264", {}, "none that can be decoded"),
        ("v4l2://front", {}, "takes a number or a device"),
        ("csi://front", {}, "takes the number"),
        ("csi://0?flip=upside", {}, "csi: flip must be one of"),
        ("rtsp:///1", {}, "needs a host"),
        ("rtsp://cam:port/1", {}, "cannot be read"),
        ("file://clip.mp4", {}, "takes an absolute path"),
        ("gst://  ", {}, "needs a pipeline"),
        ("test://?fsp=3", {}, "did you mean 'fps'"),
        ("0", {}, "did you mean /dev/video0"),
        ("no-such-thing", {}, "no such file"),
        ("one.png", {"fps": 3}, "unknown option"),
        ("tcp://cam", {}, "needs a port"),
        ("rtsp://a:b#c@cam/1", {}, "in a user or password write @ as %40"),
        ("rtsp://a:b c@cam/1", {}, "write a space as %20"),
        ("", {}, "needs an address"),
        ("a\0b.mp4", {}, "needs an address"),
        ("x" * 5000 + ".mp4", {}, r"too long \(got 5004 characters\)"),
    ],
)
def test_mistakes_are_named(text: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        parse_source(text, **options)


_PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=5)


@given(_PASSWORDS, st.booleans())
def test_passwords_stay_inside(password: str, encoded: bool) -> None:
    written = quote(password, safe="") if encoded else password
    shown = "rtsp://cam/1rtsps:// address characters SourceAddress kind True timeout 10.0 SCHEME"
    for scheme in ("rtsp", "http", "rstp", "file", "v4l2", "csi"):
        text = f"{scheme}://admin:{written}@cam/1?token={quote(password, safe='')}"
        try:
            spec = parse_source(text)
        except AfdetError as error:
            shown = str(error)
        else:
            shown = f"{spec!r} {spec.name} {make_source(spec).name}"
        for secret in (f":{written}@", f"token={quote(password, safe='')}"):
            assert secret not in shown
    spec = parse_source("rtsp://cam/1", user="admin", password=password)
    assert f"'{password}'" not in repr(spec)


@given(st.text(), st.sampled_from(["", *(f"{scheme}://" for scheme in SOURCES)]))
def test_any_text_is_an_address_or_a_mistake(text: str, scheme: str) -> None:
    try:
        spec = parse_source(scheme + text)
    except AfdetError:
        return
    make_source(spec)


def test_pipelines_of_a_jetson() -> None:
    text = csi_pipeline("1", CsiOptions(1280, 720, 60, 640, 360, "rotate-180"))
    assert text.startswith("nvarguscamerasrc sensor-id=1 sensor-mode=-1 ! video/x-raw(memory:NVMM)")
    assert "width=1280,height=720,framerate=60/1 ! nvvidconv flip-method=2 !" in text
    assert text.endswith("video/x-raw,format=BGRx,width=640,height=360")
    text = rtsp_pipeline('rtsp://cam/a"b', RtspOptions(transport="udp", user="u", password='p"!'))
    # What is in an address stays in its quotes.
    assert r'location="rtsp://u:p%22%21@cam/a\"b" protocols=udp ' in text
    assert file_pipeline("/a b.mp4").startswith(
        'filesrc location="/a b.mp4" ! decodebin ! nvvidconv'
    )
