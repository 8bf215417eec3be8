"""HTTP cameras as they are: streams and pictures that break every rule, and play in browsers."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trt_afdet.stream.sources.source_rig import (
    WebCamera,
    jpeg,
    number_image,
    opened,
    read_number,
    source,
    wait_for,
)
from trt_afdet.stream.sources.base import LoginRefusedError, SourceError
from trt_afdet.stream.sources.http_camera import JpegSplitter

TYPE = b"Content-Type: image/jpeg\r\n"
MULTI = b"multipart/x-mixed-replace; boundary=frame"


class RawCamera:
    """A server that answers every request with bytes, pictures of rising numbers among them."""

    def __init__(
        self, head: bytes, part: Callable[[bytes], bytes], first: bytes = b"", last: bytes = b""
    ) -> None:
        self._head, self._part, self._first, self._last = head, part, first, last
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/cam"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with near, contextlib.suppress(OSError):
                    while not near.recv(65536).endswith(b"\r\n\r\n"):
                        pass
                    near.sendall(b"HTTP/1.0 200 OK\r\n" + self._head + b"\r\n\r\n" + self._first)
                    for number in itertools.count():
                        if self._stop.wait(0.01):  # timing: the pace of a camera
                            return
                        near.sendall(self._part(jpeg(number_image(number % 256))))

    def __enter__(self) -> RawCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def part(before: bytes, after: bytes = b"\r\n") -> Callable[[bytes], bytes]:
    return lambda data: before.replace(b"LENGTH", str(len(data)).encode()) + data + after


MULTIPARTS = {
    "as the rules are": (MULTI, part(b"--frame\r\n" + TYPE + b"Content-Length: LENGTH\r\n\r\n")),
    "no first boundary (ESP32-CAM)": (MULTI, part(TYPE + b"\r\n", b"\r\n--frame\r\n")),
    "empty line first (Tasmota)": (MULTI, part(b"\r\n--frame\r\n" + TYPE + b"\r\n")),
    "boundary with its dashes": (b"multipart/x-mixed-replace;boundary=--frame",
                                 part(b"--frame\r\n" + TYPE + b"\r\n")),
    "boundary in quotes": (b'multipart/x-mixed-replace; boundary="frame"',
                           part(b"--frame\r\n" + TYPE + b"\r\n")),
    "boundary in quotes with dashes": (b'multipart/x-mixed-replace; boundary="--frame"',
                                       part(b"--frame\r\n" + TYPE + b"\r\n")),
    "another boundary than announced": (MULTI, part(b"--other\r\n" + TYPE + b"\r\n")),
    "no boundary parameter": (b"multipart/x-mixed-replace", part(b"--x\r\n" + TYPE + b"\r\n")),
    "image/jpg": (MULTI, part(b"--frame\r\nContent-Type: image/jpg\r\n\r\n")),
    "no type of parts": (MULTI, part(b"--frame\r\nContent-Length: LENGTH\r\n\r\n")),
    "no headers of parts": (MULTI, part(b"--frame\r\n\r\n")),
    "charset": (b"multipart/x-mixed-replace; charset=utf-8; boundary=frame",
                part(b"--frame\r\nContent-Type: image/jpeg; charset=utf-8\r\n\r\n")),
    "length too short": (MULTI, part(b"--frame\r\n" + TYPE + b"Content-Length: 7\r\n\r\n")),
    "length too long": (MULTI, part(b"--frame\r\n" + TYPE + b"Content-Length: 9999999\r\n\r\n")),
    "length of nonsense": (MULTI, part(b"--frame\r\n" + TYPE + b"Content-Length: x\r\n\r\n")),
    "line ends of Unix": (MULTI, part(b"--frame\nContent-Type: image/jpeg\n\n", b"\n")),
    "odd case": (b"Multipart/X-Mixed-REPLACE; Boundary=frame",
                 part(b"--frame\r\ncontent-type: IMAGE/JPEG\r\n\r\n")),
    "multipart/mixed": (b"multipart/mixed; boundary=frame", part(b"--frame\r\n" + TYPE + b"\r\n")),
    "no line end behind pictures": (MULTI, part(b"--frame\r\n" + TYPE + b"\r\n", b"")),
    "zero bytes behind pictures": (MULTI, part(b"--frame\r\n" + TYPE + b"\r\n", bytes(999))),
    "length of the whole": (MULTI + b"\r\nContent-Length: 0",
                            part(b"--frame\r\n" + TYPE + b"\r\n")),
    "said to be text": (b"text/plain", part(b"--frame\r\n" + TYPE + b"\r\n")),
    "JPEG after JPEG": (b"image/jpeg", part(b"", b"")),
    "JPEG after JPEG, of no type": (b"application/octet-stream", part(b"", b"")),
}  # fmt: skip


@pytest.mark.parametrize("first", [b"", b"Preamble\r\n\r\n"], ids=["", "preamble"])
@pytest.mark.parametrize("name", MULTIPARTS)
def test_streams_that_browsers_play(name: str, first: bytes) -> None:
    kind, make = MULTIPARTS[name]
    if not kind.lower().startswith(b"multipart"):
        first = b""  # There, what comes first says what it is.
    with RawCamera(b"Content-Type: " + kind, make, first) as camera, opened(camera.url) as made:
        numbers = [read_number(made.read().image) for _ in range(6)]
    assert numbers == sorted(set(numbers))


def test_pictures_without_an_end_marker_play() -> None:
    def cut(data: bytes) -> bytes:
        return b"--frame\r\n" + TYPE + b"\r\n" + data.removesuffix(b"\xff\xd9") + b"\r\n"

    with RawCamera(b"Content-Type: " + MULTI, cut) as camera, opened(camera.url) as made:
        numbers = [read_number(made.read().image) for _ in range(6)]
    assert numbers == sorted(set(numbers))


def still(
    camera_kind: str = "image/jpeg", length: int | None = None, chunked: bool = False
) -> tuple[WebCamera, list[int]]:
    """A camera that gives one picture at a time; the numbers it gave."""
    given: list[int] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        suffix = ".png" if "png" in camera_kind else ".jpg"
        data = cv2.imencode(suffix, number_image(len(given) % 256))[1].tobytes()
        given.append(len(given))
        request.protocol_version = "HTTP/1.1" if chunked else "HTTP/1.0"
        request.send_response(200)
        request.send_header("Content-Type", camera_kind)
        if chunked:
            request.send_header("Transfer-Encoding", "chunked")
            data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        elif length is not None:
            request.send_header("Content-Length", str(len(data) + length))
        request.end_headers()
        request.wfile.write(data)
        request.close_connection = not chunked

    return WebCamera({"/shot": answer}), given


@pytest.mark.parametrize(
    ("kind", "length", "chunked"),
    [
        ("image/jpeg", 0, False),
        ("image/jpg", None, False),
        ("image/jpeg", None, True),
        ("image/jpeg", 5000, False),
        ("image/png", 0, False),
        ("image/jpeg; charset=utf-8", 0, False),
        ("application/octet-stream", None, False),
        ("text/plain", 0, False),
    ],
)
def test_single_pictures_are_asked_for_at_a_rate(
    kind: str, length: int | None, chunked: bool
) -> None:
    camera, given = still(kind, length, chunked)
    with camera, opened(camera.url("/shot#snapshot=20")) as made:
        started = time.monotonic()
        numbers = [read_number(made.read().image) for _ in range(5)]
        took = time.monotonic() - started
        assert numbers == sorted(set(numbers))
        # Not faster than asked for.
        assert len(given) <= 20 * took + 3


def test_a_compressed_picture_is_unpacked() -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        assert request.headers["Accept-Encoding"] == "identity"
        request.send_response(200)
        request.send_header("Content-Type", "image/jpeg")
        request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        request.wfile.write(gzip.compress(jpeg(number_image(77))))

    with WebCamera({"/shot": answer}) as camera, opened(camera.url("/shot")) as made:
        assert read_number(made.read().image) == 77


USER, PASSWORD = "ad:min", 'p@ss" #/w'


def digest_guard(
    show: Callable[[BaseHTTPRequestHandler], None], *challenges: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer for those who know the password, by Digest."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        text = request.headers.get("Authorization", "")
        given = {
            k: q or p for k, q, p in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', text)
        }
        if text.startswith("Digest"):
            algorithm = given.get("algorithm", "MD5")
            kind = hashlib.sha256 if "256" in algorithm else hashlib.md5

            def h(*parts: str) -> str:
                return kind(":".join(parts).encode()).hexdigest()

            secret = h("ad:min", given["realm"], PASSWORD)
            if algorithm.lower().endswith("-sess"):
                secret = h(secret, given["nonce"], given["cnonce"])
            rest = [given["nc"], given["cnonce"], "auth"] if "qop" in given else []
            right = h(secret, given["nonce"], *rest, h("GET", request.path))
            if given["uri"] == request.path and given["response"] == right:
                show(request)
                return
        request.send_response(401)
        for challenge in challenges:
            request.send_header("WWW-Authenticate", challenge)
        request.end_headers()

    return answer


@pytest.mark.parametrize(
    "challenges",
    [
        ('Digest realm="cam, one", nonce="n1", qop="auth"',),
        ('Digest realm="cam", nonce="n1"',),
        ('Digest realm="cam", nonce="n1", algorithm=MD5, qop="auth,auth-int", opaque="o"',),
        ('Digest realm="cam", nonce="n1", algorithm=SHA-256, qop="auth"',),
        ('Digest realm="cam", nonce="n1", algorithm=MD5-sess, qop="auth"',),
        ('Basic realm="cam"', 'Digest realm="cam", nonce="n1", qop="auth"'),
        ('Digest realm="c", nonce="n", qop="auth"', 'Digest realm="c", nonce="n", algorithm=X'),
        ('Digest realm="c", nonce="n", algorithm=Basic', 'Digest realm="c", nonce="n", qop="auth"'),
        ('Digest realm="cam", nonce="n1", qop="auth", Basic realm="cam"',),
    ],
)
def test_digest_as_cameras_ask_for_it(challenges: tuple[str, ...]) -> None:
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
    with WebCamera(answers) as camera:
        show = camera.mjpeg(lambda number: jpeg(number_image(number % 256)))
        answers["/cam"] = digest_guard(show, *challenges)
        with opened(camera.url("/cam?a=1&b=%20"), user=USER, password=PASSWORD) as made:
            assert made.read() is not None
        before = len(camera.requests)
        made = source(camera.url("/cam"), user=USER, password="geheim")
        with pytest.raises(LoginRefusedError, match="user or password is refused") as caught:
            made.open()
        made.close()
        assert "geheim" not in str(caught.value)
        # One try with the password counts as one failed login.
        assert len(camera.requests) - before == 2


def test_a_redirection_takes_no_password_to_another_host() -> None:
    heard: list[str | None] = []
    pictures: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}

    def to(place: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(request: BaseHTTPRequestHandler) -> None:
            if request.headers.get("Authorization") is None:
                request.send_response(401)
                request.send_header("WWW-Authenticate", 'Basic realm="x"')
            else:
                request.send_response(302)
                request.send_header("Location", place)
            request.end_headers()

        return answer

    with WebCamera(pictures) as other, WebCamera(answers) as camera:
        show = other.mjpeg(lambda number: jpeg(number_image(number % 256)))

        def listen(request: BaseHTTPRequestHandler) -> None:
            heard.append(request.headers.get("Authorization"))
            show(request)

        pictures["/cam"] = answers["/here"] = listen
        answers["/away"] = to(other.url("/cam"))
        answers["/near"] = to("here")
        for path, known in (("/away", False), ("/near", True)):
            with opened(camera.url(path, "admin:geheim@")) as made:
                assert made.read() is not None
            assert (heard.pop() is not None) is known
        answers["/round"] = to("/round")
        answers["/file"] = to("file:///etc/passwd")
        for path, said in (("/round", "redirected too often"), ("/file", "not a web address")):
            made = source(camera.url(path, "admin:geheim@"))
            with pytest.raises(SourceError, match=said):
                made.open()
            made.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_peer_is_left_at_once(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        made = source(f"{scheme}://127.0.0.1:{port}/", connect_timeout=60)
        opening = threading.Thread(target=open_, args=(made,))
        opening.start()
        wait_for(
            lambda: [t for t in threading.enumerate() if t.name.startswith("read alone")],
            "a reader",
        )
        made.interrupt()
        opening.join(30)
        assert not opening.is_alive()
        wait_for(
            lambda: not [t for t in threading.enumerate() if t.name.startswith("read alone")],
            "its end",
        )


def open_(made: object) -> None:
    with contextlib.suppress(SourceError):
        made.open()  # type: ignore[attr-defined]


def split(stream: bytes, sizes: Iterator[int]) -> list[bytes]:
    splitter = JpegSplitter()
    found: list[bytes] = []
    while stream:
        size = next(sizes)
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    return found + splitter.rest()


@given(st.lists(st.one_of(st.none(), st.binary(max_size=60)), max_size=12), st.randoms())
@settings(max_examples=2000, deadline=None)
def test_any_bytes_between_pictures_in_any_portions(parts: list[bytes | None], rng: object) -> None:
    image = jpeg(number_image(5, 32, 16))
    # What follows a start of a picture without one is taken for its beginning.
    junk = [None if p is None else p.replace(b"\xff", b"") for p in parts]
    stream = b"".join(image if p is None else p for p in junk)
    found = split(stream, iter(lambda: rng.randint(1, 200), 0))  # type: ignore[attr-defined]
    assert found == [image] * junk.count(None)


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=2000, deadline=None)
def test_any_bytes_end(data: bytes, size: int) -> None:
    start = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x02"
    for stream in (data, start + data, start + data + start + data):
        split(stream, itertools.repeat(size))


def test_a_thumbnail_inside_is_no_picture_of_its_own() -> None:
    image, small = jpeg(number_image(9)), jpeg(number_image(3, 32, 16))
    app1 = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    assert split(image[:2] + app1 + image[2:], itertools.repeat(7)) == [
        image[:2] + app1 + image[2:]
    ]
    progressive = cv2.imencode(".jpg", number_image(9), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    restarts = cv2.imencode(".jpg", number_image(9), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1]
    for encoded in (progressive.tobytes(), restarts.tobytes()):
        assert split(encoded * 3, itertools.repeat(11)) == [encoded] * 3
