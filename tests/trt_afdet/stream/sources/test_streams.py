"""Streams that are neither RTSP nor HTTP, sent by FFmpeg in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trt_afdet.stream.sources.source_rig import opened, source
from trt_afdet.stream.sources.base import SourceError, UnusableSourceError

SENDER = """
import sys, time
from fractions import Fraction
import av, numpy as np
url, form, codec, *options = sys.argv[1:]
out = av.open(url, "w", format=form, options=dict(o.split("=") for o in options))
stream = out.add_stream(codec, 25)
stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 5
for number in range(25 * 60):
    image = np.full((64, 96, 3), number % 200, np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "bgr24")
    frame.pts = number
    for packet in stream.encode(frame):
        out.mux(packet)
    time.sleep(0.04)
"""


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def sending(*words: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SENDER, *words], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


CASES = {
    "udp": ("udp://127.0.0.1:PORT?pkt_size=1316", "mpegts", "mpeg2video"),
    "udp @": ("udp://127.0.0.1:PORT?pkt_size=1316", "mpegts", "mpeg2video"),
    "rtp": ("rtp://127.0.0.1:PORT", "rtp_mpegts", "mpeg2video"),
    "tcp": ("tcp://127.0.0.1:PORT?listen=1", "mpegts", "mpeg2video"),
}


@pytest.mark.parametrize("name", CASES)
def test_streams_play(name: str) -> None:
    scheme = name.split()[0]
    kind = socket.SOCK_DGRAM if scheme in ("udp", "rtp") else socket.SOCK_STREAM
    port = str(free_port(kind))
    words = [word.replace("PORT", port) for word in CASES[name]]
    at = "@" if "@" in name else ""
    address = f"{scheme.upper()}://{at}127.0.0.1:{port}#connect_timeout=30s"
    with sending(*words):
        for _ in range(300):  # Until the sender listens.
            try:
                with opened(address, timeout="30s") as made:
                    shapes = {made.read().image.shape for _ in range(5)}
                break
            except SourceError as error:
                if "refused" not in str(error):
                    raise
                time.sleep(0.2)  # timing: only between two tries
    assert shapes == {(64, 96, 3)}


def test_a_session_description_plays(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    file = tmp_path / "stream.sdp"
    file.write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 MP4V-ES/90000\n"
    )
    with (
        sending(f"rtp://127.0.0.1:{port}", "rtp", "mpeg4"),
        opened(str(file), connect_timeout="30s", timeout="30s") as made,
    ):
        assert made.read().image.shape == (64, 96, 3)


def test_a_protocol_that_is_not_built_in_is_said_once() -> None:
    import av

    try:
        av.open("srt://127.0.0.1:1", timeout=0.1)
    except av.error.ProtocolNotFoundError:
        with pytest.raises(UnusableSourceError, match="built without this protocol"):
            source("srt://127.0.0.1:1").open()
    except OSError:
        with pytest.raises(SourceError):
            source("srt://127.0.0.1:1", connect_timeout=0.5).open()
