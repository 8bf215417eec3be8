"""Motion JPEG over HTTP: the newest frame for everybody, work only for those who watch."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.trt_afdet.stream.sinks.sink_makers import result, status, wait_until
from tests.trt_afdet.stream.sinks.sink_peers import free_port
from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.stream.sinks import mjpeg
from trt_afdet.stream.sinks.mjpeg import MjpegSink

TOKEN = "correct-horse-battery"


@pytest.fixture
def sink() -> Iterator[MjpegSink]:
    made = MjpegSink(port=0)
    made.open()
    yield made
    made.close()


def get(
    sink: MjpegSink, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=60)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


class Viewer:
    """Reads the parts of a stream in a thread.

    Attributes:
        pictures: Of each part.
        ended: Set when the server ends the stream.
    """

    def __init__(self, sink: MjpegSink, path: str) -> None:
        self.pictures: list[np.ndarray] = []  # type: ignore[type-arg]
        self.ended = threading.Event()
        self.left = False
        self._connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=60)
        self._connection.connect()
        self._socket = self._connection.sock
        self._connection.request("GET", path)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        kind, _, boundary = (self._answer.getheader("Content-Type") or "").partition("; boundary=")
        assert kind == "multipart/x-mixed-replace"
        self._boundary = f"--{boundary}".encode()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while self._answer.readline().strip() == self._boundary:
                kind, length, blank = (self._answer.readline().strip() for _ in range(3))
                if not length:
                    break
                assert (kind, blank) == (b"Content-Type: image/jpeg", b"")
                data = self._answer.read(int(length.removeprefix(b"Content-Length: ")))
                self.pictures.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
                self._answer.readline()
        except OSError:
            assert self.left
        finally:
            self.ended.set()

    def leave(self) -> None:
        self.left = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._connection.close()
        self._answer.close()


def test_viewers_see_the_frames_with_their_boxes(sink: MjpegSink) -> None:
    sink.write(result(0, "front door", size=(320, 240)))
    names = json.loads(get(sink, "/")[2])["streams"]
    assert len(names) == 1
    viewer = Viewer(sink, f"/{names[0]}")
    wait_until(lambda: len(viewer.pictures) == 1)
    for sequence in range(1, 4):
        sink.write(result(sequence, "front door", size=(320, 240)))
        wait_until(lambda n=sequence: len(viewer.pictures) == n + 1)  # type: ignore[misc]
    one = result(3, "front door", size=(320, 240))
    expected = one.detections.draw(one.frame.image)
    assert np.abs(viewer.pictures[-1].astype(int) - expected).mean() < 3
    sink.status(status("ended", "front door"))
    assert viewer.ended.wait(60)
    viewer.leave()
    assert json.loads(get(sink, "/")[2])["streams"] == []


def test_a_picture_alone(sink: MjpegSink) -> None:
    sink.write(result(5, "cam"))
    code, headers, body = get(sink, "/cam.jpg")
    assert (code, headers["Content-Type"]) == (200, "image/jpeg")
    assert headers["Cache-Control"] == "no-store"
    assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)
    assert get(sink, "/other")[0] == 404
    assert get(sink, "/../../etc/passwd")[0] == 404


def test_nothing_is_encoded_for_nobody_and_once_for_all(sink: MjpegSink) -> None:
    for sequence in range(50):
        sink.write(result(sequence))
    assert sink.encoded == 0
    viewers = [Viewer(sink, "/cam") for _ in range(4)]
    wait_until(lambda: all(len(v.pictures) == 1 for v in viewers))
    for sequence in range(1, 6):
        sink.write(result(sequence))
        wait_until(lambda n=sequence: all(len(v.pictures) == n + 1 for v in viewers))  # type: ignore[misc]
    assert sink.encoded == 6
    for viewer in viewers:
        viewer.leave()


def test_a_slow_viewer_delays_nobody_and_is_let_go(
    sink: MjpegSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mjpeg._Handler, "timeout", 1.0)
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3)).astype(np.uint8)

    def loud(sequence: int) -> None:
        one = result(sequence, size=(640, 480))
        one.frame.image[:] = noise
        sink.write(one)

    loud(0)
    slow = socket.create_connection(("127.0.0.1", sink.port))
    slow.sendall(b"GET /cam HTTP/1.1\r\nHost: localhost\r\n\r\n")  # And reads nothing.
    quick = Viewer(sink, "/cam")
    sequence = 0

    def next_reaches_the_quick_one() -> bool:
        nonlocal sequence
        sequence += 1
        loud(sequence)
        return len(quick.pictures) > 20

    wait_until(next_reaches_the_quick_one)
    wait_until(lambda: "mjpeg-slot" in held(sink, 1))
    quick.leave()
    slow.close()


def held(sink: MjpegSink, most: int) -> str:
    """Says "mjpeg-slot" when no more connections than ``most`` are open."""
    assert sink._server is not None
    return "mjpeg-slot" if len(sink._server._open) <= most else ""


def test_others_need_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(InvalidValueError, match="others could watch"):
        MjpegSink("0.0.0.0", 0).open()
    with pytest.raises(InvalidValueError, match="at least 12"):
        MjpegSink(token="short")
    sink = MjpegSink("0.0.0.0", 0, TOKEN)
    sink.open()
    sink.write(result(0))
    for path in ("/", "/cam", "/cam.jpg", "/none", "/?token=", f"/?token={TOKEN}x"):
        assert get(sink, path)[0] == 401
    assert get(sink, "/", {"Authorization": "Bearer wrong"})[0] == 401
    assert get(sink, "/", {"Authorization": "Basic ä"})[0] == 401
    assert get(sink, "/?token=%C3%A4")[0] == 401
    assert get(sink, f"/cam.jpg?token={TOKEN}")[0] == 200
    assert get(sink, "/cam.jpg", {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    sink.close()
    assert TOKEN not in caplog.text


def test_another_site_s_name_is_refused_on_this_machine(sink: MjpegSink) -> None:
    sink.write(result(0))
    assert get(sink, "/cam.jpg", {"Host": "evil.example"})[0] == 403
    assert get(sink, "/cam.jpg", {"Host": f"localhost:{sink.port}"})[0] == 200
    assert get(sink, "/cam.jpg", {"Host": f"[::1]:{sink.port}"})[0] == 200


def test_connections_are_bounded_and_given_back() -> None:
    sink = MjpegSink(port=0, clients=3)
    sink.open()
    sink.write(result(0))
    viewers = [Viewer(sink, "/cam") for _ in range(3)]
    with pytest.raises((OSError, http.client.HTTPException)):
        get(sink, "/")
    for viewer in viewers:
        viewer.leave()
    sequence = 0

    def free() -> bool:
        nonlocal sequence
        sequence += 1
        sink.write(result(sequence))  # A viewer who has left is noticed by the next frame.
        return bool(held(sink, 0))

    wait_until(free)
    assert get(sink, "/")[0] == 200
    sink.close()


def test_junk_does_no_harm(sink: MjpegSink, caplog: pytest.LogCaptureFixture) -> None:
    sink.write(result(0))
    rng = np.random.default_rng(7)
    for turn in range(300):
        with socket.create_connection(("127.0.0.1", sink.port), timeout=60) as connection:
            junk = rng.integers(0, 256, int(rng.integers(1, 400))).astype(np.uint8).tobytes()
            try:
                connection.sendall((b"", b"GET ", b"GET /cam.jpg HTTP/1.1\r\nX: ")[turn % 3] + junk)
            except OSError:
                continue
    wait_until(lambda: bool(held(sink, 0)))
    assert get(sink, "/cam.jpg")[0] == 200
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_closing_sends_everybody_home_at_once() -> None:
    before = threading.active_count()
    sink = MjpegSink(port=0)
    sink.open()
    sink.write(result(0))
    viewers = [Viewer(sink, "/cam") for _ in range(3)]
    idle = socket.create_connection(("127.0.0.1", sink.port))
    wait_until(lambda: all(v.pictures for v in viewers))
    sink.close()
    for viewer in viewers:
        assert viewer.ended.wait(60)
        viewer.leave()
    idle.close()
    wait_until(lambda: threading.active_count() <= before)


def test_bad_places_are_refused(sink: MjpegSink) -> None:
    with pytest.raises(RunError, match="cannot listen"):
        MjpegSink(port=sink.port).open()
    with pytest.raises(InvalidValueError, match="unknown"):
        MjpegSink("no such host", 0).open()
    with pytest.raises(InvalidValueError, match="quality"):
        MjpegSink(quality=0)
    with pytest.raises(InvalidValueError, match="fps and clients"):
        MjpegSink(fps=0)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: make peers")
def test_curl_reads_it(sink: MjpegSink, tmp_path: Path) -> None:
    sink.write(result(0))
    out = tmp_path / "out"
    process = subprocess.Popen(["curl", "-sN", f"http://127.0.0.1:{sink.port}/cam", "-o", str(out)])
    sequence = 0

    def seen() -> bool:
        nonlocal sequence
        sequence += 1
        sink.write(result(sequence))
        return out.exists() and out.read_bytes().count(b"Content-Type: image/jpeg") > 5

    wait_until(seen)
    process.terminate()
    process.wait()


def test_ffmpeg_s_reader_plays_it(sink: MjpegSink) -> None:
    stop = threading.Event()

    def feed() -> None:
        sequence = 0
        while not stop.wait(0.02):  # timing: the pace of a camera
            sink.write(result(sequence))
            sequence += 1

    sink.write(result(0))
    feeder = threading.Thread(target=feed)
    feeder.start()
    with av.open(f"http://127.0.0.1:{sink.port}/cam", format="mpjpeg", timeout=60) as container:
        frames = container.decode(video=0)
        assert [next(frames).width for _ in range(10)] == [64] * 10
    stop.set()
    feeder.join()


def test_a_free_port_is_told() -> None:
    port = free_port()
    sink = MjpegSink(port=port)
    sink.open()
    assert sink.port == port
    sink.close()
