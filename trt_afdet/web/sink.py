"""The web page as a sink of the pipeline."""

from __future__ import annotations

from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.web.server import WebServer


class WebSink:
    """Shows results on a web page; starts its server with the pipeline and stops it with it.

    Args:
        server: The page. One that already runs is left running.
    """

    durable = False

    def __init__(self, server: WebServer) -> None:
        self.name = "web page"
        self._server = server
        self._started = False

    def open(self) -> None:
        """Starts the server.

        Raises:
            RunError: If the port is taken.
        """
        if not self._server.running:
            self._server.start()
            self._started = True

    def write(self, result: StreamResult) -> None:
        self._server.results.add_result(result)

    def status(self, event: StatusEvent) -> None:
        self._server.results.add_status(event)

    def close(self) -> None:
        if self._started:
            self._server.stop()
