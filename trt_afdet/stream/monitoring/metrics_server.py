"""Serves ``/metrics`` and ``/healthz`` on a separate port, without the web page.

prometheus_client's own server answers every path with the metrics and cannot serve health.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from trt_afdet.errors import RunError
from trt_afdet.stream.monitoring.health import Health, HealthCheck
from trt_afdet.stream.monitoring.metrics import Metrics
from trt_afdet.stream.monitoring.prometheus import Exposition
from trt_afdet.stream.monitoring.public_names import PublicNames
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot
from trt_afdet.support.files import TEXT_ERRORS
from trt_afdet.support.listening import parse_address


class MetricsServer:
    """Answers from :meth:`start` to :meth:`stop`.

    Args:
        address: ``HOST:PORT`` or ``PORT``; port 0 takes a free one.
        snapshot: Makes a pipeline's figures.
        metrics: Of the same pipeline.

    Raises:
        InvalidValueError: If the address is malformed.
        MissingDependencyError: If prometheus_client is missing.
    """

    def __init__(
        self, address: str, snapshot: Callable[[], PipelineSnapshot], metrics: Metrics
    ) -> None:
        self.host, self.port = parse_address(address)
        names = PublicNames()
        self._snapshot = snapshot
        self._check = HealthCheck(names)
        self._exposition = Exposition(self._judge, names, lambda: metrics, lambda: 0)
        self._server: ThreadingHTTPServer | None = None

    def _judge(self) -> tuple[PipelineSnapshot, Health]:
        now = self._snapshot()
        return now, self._check.judge(now)

    def start(self) -> None:
        """Starts to answer.

        Raises:
            RunError: If the port is taken.
        """
        try:
            server = ThreadingHTTPServer((self.host, self.port), partial(_Handler, self.answer))
        except OSError as error:
            raise RunError(
                "the metrics cannot be served", got=f"{self.host}:{self.port}: {error.strerror}"
            ) from error
        server.daemon_threads = True
        self._server, self.port = server, server.server_address[1]
        threading.Thread(
            target=server.serve_forever, args=(0.1,), name="metrics server", daemon=True
        ).start()

    def stop(self) -> None:
        """Stops; stopping twice is fine."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/metrics":
            body, kind = self._exposition.text(accept)
            return 200, kind, body
        if path == "/healthz":
            _, health = self._judge()
            text = "\n".join((health.status, *health.reasons)) + "\n"
            status = 503 if health.status == "unhealthy" else 200
            return status, "text/plain", text.encode("utf-8", TEXT_ERRORS)
        return 404, "text/plain", b"there are /metrics and /healthz\n"


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # Seconds after which a silent client is disconnected.

    def __init__(self, answer: Callable[[str, str], tuple[int, str, bytes]], *args: Any) -> None:
        self._answer = answer
        super().__init__(*args)

    def do_GET(self) -> None:
        path, accept = self.path.partition("?")[0], self.headers.get("Accept", "")
        status, kind, body = self._answer(path, accept)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a line per scrape is of no use."""
