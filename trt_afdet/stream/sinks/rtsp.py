"""Annotated video pushed to an RTSP server (``ANNOUNCE`` and ``RECORD``), over TCP.

The server (MediaMTX, GStreamer's, ...) hands it on to RTSP, WebRTC or HLS players. While it is away
frames are left out, and it is tried again, later and later.
"""

from __future__ import annotations

import errno
import logging
import random
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from trt_afdet.errors import InvalidValueError
from trt_afdet.media.encoding import Encoder, choose_codec
from trt_afdet.media.pyav import load_av
from trt_afdet.stream.addresses import parse_address
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import FINAL, StatusEvent
from trt_afdet.stream.retry import Retry
from trt_afdet.support.slug import slug
from trt_afdet.support.threads import interrupted

log = logging.getLogger("trt_afdet.stream")

TIMEOUT = 5.0  # Seconds that the server may take to answer.


class RtspSink:
    """Publishes each source under its own address, ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH``.

    ``{source}`` in it is the source's name, and is needed where there is more than one.
    """

    durable = False

    def __init__(
        self,
        url: str,
        codec: str | None = None,  # Encoder of FFmpeg; by default libx264 if there is one.
        bitrate: int = 2_000_000,  # Bits per second.
        retry: Retry | None = None,
    ) -> None:
        if bitrate < 1:
            raise InvalidValueError("bitrate must be above 0", got=bitrate)
        parts = urlsplit(url)
        self.name = f"rtsp {parts.netloc.rpartition('@')[2]}{parts.path}"
        self.dropped = 0
        self.bitrate, self.codec, self.retry = bitrate, "", retry or Retry()
        self._url, self._wanted = url, codec
        self._outputs: dict[str, _Output] = {}

    def open(self) -> None:
        """Looks for the encoder; the server need not be there."""
        self.codec = choose_codec(self._wanted)

    def write(self, result: StreamResult) -> None:
        source = result.frame.source
        output = self._outputs.get(source)
        if output is None:
            if self._outputs and "{source}" not in self._url:
                hint = "write {source} into its path"
                raise InvalidValueError("several sources cannot share one address", hint=hint)
            url = self._url.replace("{source}", quote(slug(source)))
            output = self._outputs[source] = _Output(self, source, url)
        if not output.send(result):
            self.dropped += 1

    def status(self, event: StatusEvent) -> None:
        if event.state in FINAL and (output := self._outputs.pop(event.source, None)):
            output.close()

    def close(self) -> None:
        for output in self._outputs.values():
            output.close()


def _greet(url: str) -> None:
    """Waits for a server's first word, in steps that can be interrupted; at most :data:`TIMEOUT`.

    PyAV holds all of Python while it waits for an answer to ANNOUNCE, without a limit.
    """
    address = parse_address(url)
    deadline = time.monotonic() + TIMEOUT
    with socket.create_connection((address.host, address.port or 554), TIMEOUT) as server:
        server.settimeout(0.1)
        bare = replace(address, user=None, password=None).url()
        server.sendall(f"OPTIONS {bare} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            if interrupted() or time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the server does not answer")
            with suppress(TimeoutError):
                more = server.recv(4096)
                if not more:
                    raise ConnectionResetError(errno.ECONNRESET, "the server hung up")
                answer += more


class _Output:
    """One stream at the server."""

    def __init__(self, sink: RtspSink, source: str, url: str) -> None:
        self._label = f"{sink.name}, {source}"
        self._sink, self._url = sink, url
        self._container: Any = None
        self._encoder: Encoder | None = None
        self._shape: tuple[int, ...] = ()
        self._began = self._not_before = 0.0
        self._failures = 0

    def send(self, result: StreamResult) -> bool:
        """Sends a frame; False if the server is away."""
        frame = result.frame
        if self._encoder is not None and frame.image.shape != self._shape:
            self.close()
        if self._encoder is None and time.monotonic() < self._not_before:
            return False
        try:
            encoder = self._encoder or self._connect(result)
            encoder.encode(result.annotated, frame.captured - self._began)
        except OSError as error:
            self._drop()
            self._failures += 1
            # FFmpeg's text holds the address, and that the password.
            if self._failures == 1:
                log.warning("%s: %s; trying again", self._label, error.strerror)
            pause = self._sink.retry.pause(self._failures, random.random())
            self._not_before = time.monotonic() + pause
            return False
        if self._failures:
            log.info("%s: works again", self._label)
            self._failures = 0
        return True

    def close(self) -> None:
        with suppress(OSError):  # It is gone already.
            if self._encoder is not None:
                self._encoder.finish()
        self._drop()

    def _connect(self, result: StreamResult) -> Encoder:
        av, sink, self._shape = load_av(), self._sink, result.frame.image.shape
        _greet(self._url)
        options = {"rtsp_transport": "tcp"}
        self._container = av.open(self._url, "w", format="rtsp", options=options, timeout=TIMEOUT)
        size = self._shape[1], self._shape[0]
        self._encoder = Encoder(self._container, sink.codec, size, bitrate=sink.bitrate)
        self._began = result.frame.captured
        return self._encoder

    def _drop(self) -> None:
        container, self._container, self._encoder = self._container, None, None
        if container is not None:
            with suppress(OSError):  # The server has closed it.
                container.close()
