"""Annotated video for browsers and players: Motion JPEG over HTTP.

``/`` lists the streams (JSON), ``/NAME`` is one, ``/NAME.jpg`` its latest picture. Each viewer gets
the newest frame whenever it is ready for one, so a slow one sees fewer and delays nobody. Frames
are drawn and encoded only while somebody watches, once for all viewers.

On this machine only, unless there is a token: ``?token=...`` or ``Authorization: Bearer ...``.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import socket
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import cv2
import numpy as np
import numpy.typing as npt

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import FINAL, StatusEvent
from trt_afdet.support.listening import bind, is_loopback
from trt_afdet.support.slug import slug

log = logging.getLogger("trt_afdet.stream")

PATIENCE = 15.0  # Seconds after which a silent viewer is disconnected.
SHORTEST_TOKEN = 12
_BOUNDARY = "trt-afdet-frame"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",
}


class MjpegSink:
    """Serves the latest frames."""

    durable = False

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8081,  # 0 takes a free one, which is in ``port`` once it is open.
        token: str | None = None,  # Viewers must know it; needed unless host is this machine only.
        quality: int = 80,  # Of the JPEGs, 1..100.
        fps: float = 30.0,  # Most frames per second and viewer.
        clients: int = 32,  # Connections that may be open; more are turned away.
    ) -> None:
        if not 1 <= quality <= 100:
            raise InvalidValueError("quality must be within 1..100", got=quality)
        if not (fps > 0 and clients > 0):
            raise InvalidValueError("fps and clients must be above 0")
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
            raise InvalidValueError(f"a token must have at least {SHORTEST_TOKEN} ASCII characters")
        self.name = f"mjpeg {host}:{port}"
        self.port, self.token, self.quality, self.clients = port, token, quality, clients
        self.pause = 1 / fps
        self.encoded = 0
        self.closed = threading.Event()
        self.streams: dict[str, _Stream] = {}
        self._host = host
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        listener = bind(self._host, self.port, "the MJPEG server")
        local = is_loopback(listener)
        if not local and self.token is None:
            listener.close()
            hint = "set a token, or listen at 127.0.0.1"
            raise InvalidValueError("others could watch", got=self._host, hint=hint)
        self._server = _Server(listener, self, local=local)
        self.port = self._server.server_address[1]
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.1,), name=self.name, daemon=True)
        self._thread.start()

    def write(self, result: StreamResult) -> None:
        name = slug(result.frame.source)
        if name not in self.streams:
            self.streams[name] = _Stream(self)
        self.streams[name].show(result)

    def status(self, event: StatusEvent) -> None:
        """A source that has ended leaves its last picture to nobody."""
        if event.state in FINAL and (stream := self.streams.pop(slug(event.source), None)):
            stream.show(None)

    def close(self) -> None:
        self.closed.set()
        while self.streams:
            self.streams.popitem()[1].show(None)
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.hang_up()
            self._server.server_close()
            self._thread.join()


class _Stream:
    """The latest frame of one source, encoded when the first one asks for it."""

    def __init__(self, sink: MjpegSink) -> None:
        self._sink = sink
        self._changed = threading.Condition()
        self._encoding = threading.Lock()
        self._latest: StreamResult | None = None
        self._serial = 0
        self._jpeg: tuple[int, bytes] = (0, b"")

    def show(self, result: StreamResult | None) -> None:
        """Takes a frame; None: the stream has ended."""
        with self._changed:
            self._latest = result
            self._serial += 1
            self._changed.notify_all()

    def next(self, after: int, wait: float) -> tuple[int, bytes] | None:
        """The newest frame as a JPEG, with its number; None if the stream has ended.

        Waits so many seconds for one after the number ``after``; then the same one comes again,
        which shows that the viewer is still there.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._serial > after, wait)
            result, serial = self._latest, self._serial
        if result is None:
            return None
        with self._encoding:
            if self._jpeg[0] < serial:
                self._jpeg = serial, encode_jpeg(result.annotated, self._sink.quality)
                self._sink.encoded += 1
            return self._jpeg


def encode_jpeg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    """A picture, BGR uint8 [H, W, 3], as a JPEG."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RunError("a frame cannot be encoded as JPEG", got=list(image.shape))
    return data.tobytes()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, sink: MjpegSink, *, local: bool) -> None:
        self.sink, self.local = sink, local
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            welcome = len(self._open) < self.sink.clients
            if welcome:
                self._open.add(request)
        if welcome:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._open.discard(request)

    def hang_up(self) -> None:
        with self._guard:
            for request in self._open:
                with suppress(OSError):  # It has just ended.
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores viewers that disconnect."""
        log.debug("mjpeg: a connection broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version = "trt-afdet"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Requests hold tokens, which are not for the log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        sink = self.server.sink
        parts = urlsplit(self.path)
        if self.server.local and not self._asks_for_this_machine():
            self._answer(HTTPStatus.FORBIDDEN, b"wrong host\n", "text/plain")
            return
        kind, _, bearer = self.headers.get("Authorization", "").partition(" ")
        offered = parse_qs(parts.query).get("token", [bearer if kind == "Bearer" else None])[0]
        token = sink.token
        if token is not None and not hmac.compare_digest((offered or "").encode(), token.encode()):
            self._answer(HTTPStatus.UNAUTHORIZED, b"token missing or wrong\n", "text/plain")
            return
        name = unquote(parts.path).lstrip("/")
        stream = sink.streams.get(name.removesuffix(".jpg"))
        if not name:
            listing = json.dumps({"streams": sorted(sink.streams)}).encode()
            self._answer(HTTPStatus.OK, listing, "application/json")
        elif stream is None:
            self._answer(HTTPStatus.NOT_FOUND, b"no such stream; / lists them\n", "text/plain")
        elif not name.endswith(".jpg"):
            self._stream(stream)
        elif (picture := stream.next(-1, 0.0)) is None:
            self._answer(HTTPStatus.NOT_FOUND, b"the stream has ended\n", "text/plain")
        else:
            self._answer(HTTPStatus.OK, picture[1], "image/jpeg")

    def _stream(self, stream: _Stream) -> None:
        kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        self._begin(HTTPStatus.OK, {"Content-Type": kind})
        if self.command == "HEAD":
            return
        # What lies in the system's buffers is late already.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        sink, serial = self.server.sink, 0
        while not sink.closed.is_set():
            began = time.monotonic()
            picture = stream.next(serial, PATIENCE / 3)
            if picture is None:
                break
            serial, data = picture
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
            self.wfile.write(f"{head}\r\n\r\n".encode() + data + b"\r\n")
            sink.closed.wait(max(0.0, began + sink.pause - time.monotonic()))
        self.wfile.write(f"--{_BOUNDARY}--\r\n".encode())

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self._begin(status, {"Content-Type": kind, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in {**headers, **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def _asks_for_this_machine(self) -> bool:
        """Another site's name that leads here would let that site look."""
        if (host := self.headers.get("Host")) is None:
            return True  # HTTP/1.0; no browser.
        name = urlsplit(f"//{host}").hostname or ""
        try:
            return name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False
