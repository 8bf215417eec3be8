"""What the tests of sources talk to: clips, web cameras, and a proxy that can freeze."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from tests.waiting import LIMIT
from tests.waiting import wait_until as wait_for  # noqa: F401
from trt_afdet.stream.capture import Connection
from trt_afdet.stream.config.addresses import make_source, parse_source
from trt_afdet.stream.sources.base import Picture, Source, SourceInfo

Image = npt.NDArray[np.uint8]


def number_image(number: int, width: int = 96, height: int = 64) -> Image:
    """A picture that says its number, up to 255, in eight black or white bars."""
    image = np.full((height, width, 3), 16, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            image[:, bit * width // 8 : (bit + 1) * width // 8] = 235
    return image


def read_number(image: Image) -> int:
    """The number that a picture of :func:`number_image` says."""
    width = image.shape[1]
    means = [image[:, (2 * bit + 1) * width // 16].mean() for bit in range(8)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 126)


def make_clip(
    path: Path,
    frames: int = 30,
    *,
    size: tuple[int, int] = (96, 64),
    fps: int = 30,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    gop: int = 10,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of :func:`number_image`; ``times`` are the frames' times in frames."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "10"}
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(number_image(index % 256, *size), format="bgr24")
            frame.pts = index if times is None else times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Supervised:
    """A source in the thread that a pipeline reads it in, with the source's own deadlines."""

    def __init__(self, make: Callable[[], Source]) -> None:
        self.name = make().name
        self._make = make
        self._connection: Connection | None = None

    def open(self) -> SourceInfo:
        self.close()
        self._connection = Connection(f"alone {self.name}", self._make())
        self._connection.start()
        return self._connection.wait_open(2 * LIMIT)

    def read(self) -> Picture | None:
        assert self._connection is not None
        return self._connection.take(2 * LIMIT)

    def interrupt(self) -> None:
        if self._connection is not None:
            self._connection.abandon()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abandon()
            self._connection.join(0.2)  # timing: a courtesy; a hung driver is left behind
            self._connection = None


def source(text: str, **options: object) -> Supervised:
    """The source behind an address."""
    spec = parse_source(text, **options)
    return Supervised(lambda: make_source(spec))


@contextmanager
def opened(text: str, **options: object) -> Iterator[Supervised]:
    """The same, opened."""
    made = source(text, **options)
    try:
        made.open()
        yield made
    finally:
        made.close()


def read_all(text: str, **options: object) -> list[Picture]:
    """Every picture of something that ends."""
    with opened(text, **options) as made:
        pictures = []
        while (picture := made.read()) is not None:
            pictures.append(picture)
        return pictures


def jpeg(image: Image) -> bytes:
    """A picture as JPEG."""
    return cv2.imencode(".jpg", image)[1].tobytes()


class WebCamera:
    """A web server whose answers are functions: they get the request and write what they like.

    Attributes:
        requests: Paths asked for so far.
        stopping: Set when the server ends: endless answers end too.
    """

    def __init__(self, answers: dict[str, Callable[[BaseHTTPRequestHandler], None]]) -> None:
        self.requests: list[str] = []
        self.stopping = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests.append(self.path)
                answer = answers.get(self.path.partition("?")[0])
                if answer is None:
                    self.send_error(404)
                    return
                with contextlib.suppress(ConnectionError):
                    answer(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def url(self, path: str, who: str = "") -> str:
        """The address of an answer."""
        return f"http://{who}127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self) -> WebCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def mjpeg(
        self, images: Callable[[int], bytes | None], fps: float = 25
    ) -> Callable[[BaseHTTPRequestHandler], None]:
        """An answer: pictures by number until there is None."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            request.end_headers()
            number = 0
            while (data := images(number)) is not None and not self.stopping.is_set():
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                request.wfile.write(head.encode() + data + b"\r\n")
                number += 1
                time.sleep(1 / fps)

        return answer

    @staticmethod
    def body(data: bytes, kind: str) -> Callable[[BaseHTTPRequestHandler], None]:
        """An answer: a file."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)

        return answer


class Proxy:
    """A TCP proxy in front of a port of this machine; frozen, it forwards nothing and keeps quiet.

    Attributes:
        port: Where it listens.
        frozen: Set to freeze it.
        connections: So far.
    """

    def __init__(self, target: int) -> None:
        self.frozen = threading.Event()
        self.connections = 0
        self._target = target
        self._closing = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.frozen.is_set() and not self._closing:
                    time.sleep(0.02)  # timing: until it thaws
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
