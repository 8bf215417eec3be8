"""Cameras behind a real RTSP server, with everything that goes wrong in a year."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.trt_afdet.stream.peers_rtsp import Mount, RtspServer, free_port
from tests.trt_afdet.stream.sources.source_rig import (
    Proxy,
    Supervised,
    make_clip,
    opened,
    read_number,
    source,
    wait_for,
)
from tests.trt_afdet.stream.test_pipeline import Memory, OneBox
from trt_afdet.stream.config.addresses import make_source, parse_source
from trt_afdet.stream.pipeline import Pipeline, PipelineError, SourceSpec
from trt_afdet.stream.retry import Retry
from trt_afdet.stream.sources.base import (
    LoginRefusedError,
    SourceError,
    SourceRefusedError,
)
from trt_afdet.support.redact import redact

#: Short times; a loaded machine may take seconds to connect.
SOON = Retry(first=0.1, longest=0.3, stall=2.0, opening=15.0, settled=60.0)


@contextmanager
def running(*addresses: str, retry: Retry = SOON) -> Iterator[Memory]:
    """A pipeline over cameras named a, b, c; ends with the block."""
    sink = Memory()
    plans = []
    for name, address in zip("abc", addresses, strict=False):
        spec = parse_source(address, timeout=1.5)
        plans.append(
            SourceSpec(name, lambda spec=spec, name=name: make_source(spec, name), retry=retry)  # type: ignore[misc]
        )
    pipeline = Pipeline(OneBox(), plans, [sink])

    def run() -> None:
        try:
            pipeline.run()
        except PipelineError as error:
            sink.failure = error  # type: ignore[attr-defined]

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sink
    finally:
        pipeline.stop()
        thread.join(60)
        assert not thread.is_alive()


def read_on(made: Supervised) -> None:
    """Until it raises."""
    while made.read() is not None:
        pass


def shapes(sink: Memory, name: str, since: int = 0) -> set[tuple[int, ...]]:
    return {r.frame.image.shape[:2] for r in sink.results[since:] if r.frame.source == name}


@pytest.mark.parametrize("method", ["digest", "basic"])
def test_codecs_transports_and_passwords(method: str) -> None:
    mounts = {
        "h264": Mount(),
        "h265": Mount(codec="h265", width=192, height=128),
        "mjpeg": Mount(codec="mjpeg"),
        "safe": Mount(user="admin", password="s3cr@t/#?"),
    }
    with RtspServer(mounts, method=method) as server:
        cameras = [
            (server.url("h264"), {}, (240, 320)),
            (server.url("h264"), {"transport": "udp"}, (240, 320)),
            (server.url("h265"), {}, (128, 192)),
            (server.url("mjpeg"), {}, (240, 320)),
            (server.url("safe", "admin", "s3cr@t/#?"), {}, (240, 320)),
            (server.url("safe"), {"user": "admin", "password": "s3cr@t/#?"}, (240, 320)),
        ]
        for address, options, shape in cameras if method == "digest" else cameras[-2:]:
            with opened(address, **options) as made:
                pictures = [made.read() for _ in range(5)]
            assert {p.image.shape[:2] for p in pictures if p is not None} == {shape}
            ages = [time.monotonic() - (p.captured or 0) for p in pictures if p is not None]
            assert len(ages) == 5
            assert min(ages) >= 0
            # The picture is the pattern, not grey: a white ball on black.
            assert pictures[-1] is not None
            assert pictures[-1].image.max() > 200
            assert np.median(pictures[-1].image) < 60
        for address in (server.url("safe"), server.url("safe", "admin", "geheim")):
            with pytest.raises(SourceRefusedError, match="user or password") as caught:
                source(address).open()
            assert "geheim" not in str(caught.value)
        with pytest.raises(SourceError, match="no such stream") as missing:
            source(server.url("none", "admin", "geheim")).open()
        assert "geheim" not in str(missing.value)


def test_a_clip_played_as_a_camera_is_the_clip(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 25, size=(320, 240), fps=25, gop=5)
    with RtspServer({"clip": Mount(file=str(clip))}) as server:
        with opened(server.url("clip")) as made:
            numbers = []
            started = time.monotonic()
            # More than twice its length: it begins again.
            while len(numbers) < 55:
                picture = made.read()
                assert picture is not None
                numbers.append(read_number(picture.image))
        assert set(numbers) <= set(range(25))
        # Three times its length, less what was stored while the camera was opened.
        assert time.monotonic() - started > 1.5
        steps = [(b - a) % 25 for a, b in pairwise(numbers)]
        # Forward, and at its end from its start; a busy machine leaves some out.
        assert 0 not in steps
        assert sorted(steps)[len(steps) // 2] < 12


def test_a_server_that_is_killed_and_comes_back_with_another_size_and_codec() -> None:
    with RtspServer({"cam": Mount()}) as server, running(server.url("cam")) as sink:
        wait_for(lambda: len(sink.results) > 5, "the first frames")
        for mount, shape in (
            (Mount(width=640, height=360), (360, 640)),
            (Mount(width=192, height=128, codec="h265"), (128, 192)),
            (Mount(codec="mjpeg"), (240, 320)),
        ):
            server.kill()
            wait_for(lambda: sink.states("a")[-1] != "live", "the loss to be noticed")
            seen = len(sink.results)
            server.start({"cam": mount})
            wait_for(lambda n=seen: len(sink.results) > n + 5, "frames of the new stream")
            assert shapes(sink, "a", seen + 3) == {shape}
        sequences = sink.sequences("a")
        assert sequences == sorted(set(sequences))
        states = sink.states("a")
        assert states[:2] == ["connecting", "live"]
        assert states.count("live") == 4
        assert {"lost"} <= set(states) <= {"connecting", "live", "lost", "stalled"}


def test_a_camera_that_freezes_without_closing_is_reconnected() -> None:
    with RtspServer({"cam": Mount()}) as server, Proxy(server.port) as proxy:
        address = f"rtsp://127.0.0.1:{proxy.port}/cam"
        with running(address, server.url("cam")) as sink:
            wait_for(lambda: len(sink.sequences("a")) > 5, "the first frames")
            proxy.frozen.set()
            wait_for(lambda: "lost" in sink.states("a"), "the silence to be noticed")
            other = len(sink.sequences("b"))
            proxy.frozen.clear()
            seen = len(sink.sequences("a"))
            wait_for(lambda: len(sink.sequences("a")) > seen + 5, "frames again")
            assert proxy.connections >= 2
            # Nothing of this is felt by the other camera.
            assert sink.states("b") == ["connecting", "live"]
            assert len(sink.sequences("b")) > other


def test_one_dead_address_and_one_wrong_password_leave_the_others_alone() -> None:
    with RtspServer({"cam": Mount(), "safe": Mount(user="u", password="p" * 9)}) as server:
        dead = f"rtsp://admin:geheim@127.0.0.1:{free_port()}/cam"
        with running(server.url("cam"), dead, server.url("safe", "u", "geheim")) as sink:
            wait_for(lambda: len(sink.sequences("a")) > 30, "frames")
            wait_for(lambda: sink.states("b").count("lost") > 2, "the dead one to be tried")
            wait_for(lambda: sink.states("c")[-1:] == ["lost"], "the refusal")
            assert sink.states("a") == ["connecting", "live"]
            # A refused password is tried again, but not soon: cameras lock their users out.
            assert sink.states("c") == ["connecting", "lost"]
    said = " ".join(event.detail for event in sink.events)
    assert "geheim" not in said
    assert "Connection refused" in said
    assert "user or password" in said


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, LoginRefusedError, "user or password is refused"),
        (403, LoginRefusedError, "user or password is refused"),
        (404, SourceRefusedError, "no such stream"),
        (453, SourceRefusedError, "too many viewers"),
        (454, SourceRefusedError, "session timeout"),
        (461, SourceRefusedError, "add #transport=udp"),
        (499, SourceRefusedError, "the camera answers 499"),
        (500, SourceError, "an error of its own"),
        (503, SourceError, "busy"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
def test_answers_of_a_camera_are_named_with_the_remedy(
    method: str, status: int, kind: type[SourceError], said: str
) -> None:
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    sdp += "a=rtpmap:96 H264/90000\r\na=control:1\r\n"

    def answer(near: socket.socket, text: str) -> None:
        asked = text.split()[0]
        number = re.search(r"CSeq: (\d+)", text)
        assert number is not None
        head = f"CSeq: {number[1]}\r\n"
        if asked == method:
            near.sendall(f"RTSP/1.0 {status} No\r\n{head}\r\n".encode())
            return
        body = sdp if asked == "DESCRIBE" else ""
        if body:
            head += "Content-Type: application/sdp\r\n"
        if asked == "SETUP":
            head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        near.sendall(f"RTSP/1.0 200 OK\r\n{head}\r\n{body}".encode())

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                with near, contextlib.suppress(OSError):
                    while text := near.recv(65536).decode(errors="replace"):
                        answer(near, text)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    made = source(f"rtsp://u:geheim@127.0.0.1:{listener.getsockname()[1]}/x", connect_timeout=20)
    with pytest.raises(SourceError, match=re.escape(said)) as caught:
        made.open()
    made.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert type(caught.value) is kind
    assert redact(str(caught.value)) == str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("how", ["noise", "half an answer", "silence"])
def test_what_does_not_speak_rtsp_ends_in_an_error(how: str) -> None:
    stop = threading.Event()

    def serve() -> None:
        with listener:
            near, _ = listener.accept()
            with near:
                near.settimeout(0.1)
                while not stop.is_set():
                    try:
                        if how == "noise":
                            near.sendall(bytes(range(256)) * 64)
                        elif near.recv(4096) and how == "half an answer":
                            near.sendall(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Le")
                    except TimeoutError:
                        continue
                    except OSError:
                        return

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    made = source(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/cam", connect_timeout=1.5)
    with pytest.raises(SourceError):
        made.open()
    made.close()
    stop.set()
    thread.join(60)


def test_garbage_in_the_stream_does_not_kill_it() -> None:
    with (
        RtspServer({"cam": Mount()}) as server,
        Noisy(server.port) as proxy,
        running(f"rtsp://127.0.0.1:{proxy.port}/cam") as sink,
    ):
        wait_for(lambda: len(sink.results) > 5, "the first frames")
        proxy.noise.set()
        wait_for(lambda: proxy.bent > 5_000 or "lost" in sink.states("a"), "noise")
        proxy.noise.clear()
        seen = len(sink.results)
        wait_for(lambda: len(sink.results) > seen + 10, "frames again")
        assert "failed" not in sink.states("a")


class Noisy(Proxy):
    """A proxy that, while ``noise`` is set, spoils some bytes of what the server sends."""

    def __init__(self, target: int) -> None:
        self.noise = threading.Event()
        self.bent = 0
        self._rng = np.random.default_rng(1)
        super().__init__(target)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        from_server = source.getpeername()[1] == self._target
        try:
            while data := source.recv(65536):
                if from_server and self.noise.is_set():
                    bent = np.frombuffer(data, np.uint8).copy()
                    bent[self._rng.random(bent.size) < 0.02] ^= 0x55
                    data = bent.tobytes()
                    self.bent += len(data)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def test_interrupting_ends_opening_and_reading_at_once() -> None:
    # A camera each: this server may end one that a client has just left for its next client, too.
    cameras = {"open": Mount(), "read": Mount()}
    with RtspServer(cameras) as server, Proxy(server.port) as proxy:
        for frozen_at in cameras:
            address = f"rtsp://127.0.0.1:{proxy.port}/{frozen_at}"
            made = source(address, timeout=300, connect_timeout=300)
            if frozen_at == "read":
                made.open()
                assert made.read() is not None
            proxy.frozen.set()
            threading.Timer(0.3, made.interrupt).start()
            with pytest.raises(SourceError, match="interrupted"):
                read_on(made) if frozen_at == "read" else made.open()
            made.close()
            proxy.frozen.clear()


def test_a_slow_reader_sees_the_present() -> None:
    with RtspServer({"cam": Mount(fps=30)}) as server, opened(server.url("cam")) as made:
        captured = []
        for _ in range(8):
            time.sleep(0.25)  # timing: lets frames pass; only what was filmed later may be shown
            picture = made.read()
            assert picture is not None
            captured.append(picture.captured or 0.0)
        assert captured == sorted(captured)
        assert captured[-1] - captured[0] > 1.0


def test_after_a_jam_in_the_network_the_present_is_shown(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 250, size=(320, 240), fps=25, gop=10)
    with (
        RtspServer({"clip": Mount(file=str(clip))}) as server,
        Proxy(server.port) as proxy,
        opened(f"rtsp://127.0.0.1:{proxy.port}/clip", max_lag=0.5) as made,
    ):
        usual = []
        for _ in range(25):
            before = made.read()
            assert before is not None
            usual.append(time.monotonic() - (before.captured or 0.0))
        proxy.frozen.set()
        jam = threading.Timer(2.0, proxy.frozen.clear)
        jam.start()
        numbers, ages = [], []
        while len(numbers) < 60:
            picture = made.read()
            assert picture is not None
            numbers.append(read_number(picture.image))
            ages.append(time.monotonic() - (picture.captured or 0.0))
        jam.join()
    # Old frames said how old they were; the last second's are as fresh as before the jam, within
    # the lag that is allowed, and none of them is spoiled.
    assert sorted(ages[-25:])[12] < max(usual) + 0.5
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 60


def test_a_server_that_is_stopped_in_its_tracks() -> None:
    with RtspServer({"cam": Mount()}) as server, opened(server.url("cam"), timeout=1) as made:
        assert made.read() is not None
        server.freeze()
        with pytest.raises(SourceError, match=r"for 1 s"):
            read_on(made)
