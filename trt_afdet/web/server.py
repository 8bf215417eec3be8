"""Runs the page's HTTP server in a separate thread."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trt_afdet.errors import InvalidValueError, RunError
from trt_afdet.stream.frame import StreamResult
from trt_afdet.stream.monitoring.health import Health, HealthCheck
from trt_afdet.stream.monitoring.metrics import Metrics
from trt_afdet.stream.monitoring.prometheus import Exposition
from trt_afdet.stream.monitoring.snapshot import PipelineSnapshot, QueueCount
from trt_afdet.stream.monitoring.status import StatusEvent
from trt_afdet.stream.pipeline import Pipeline
from trt_afdet.support.listening import LOCAL_NAMES, bind, is_loopback, outward_host, parse_address
from trt_afdet.support.packages import missing
from trt_afdet.support.redact import redact
from trt_afdet.support.slug import slug
from trt_afdet.support.threads import Worker
from trt_afdet.web.access import Access, new_token
from trt_afdet.web.app import make_app
from trt_afdet.web.broadcaster import Broadcaster
from trt_afdet.web.guard import Guard
from trt_afdet.web.proxy import Forwarding, parse_host
from trt_afdet.web.results import ResultStore
from trt_afdet.web.zones_store import ZonesStore

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("trt_afdet.web")

REQUEST_TIMEOUT = 15.0  # Seconds within which a request must be complete, head and body.
MAX_CONNECTIONS = 192  # Connections that may be open; more are closed as they come.


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class WebServer:
    """Serves the page, ``/metrics`` and ``/healthz`` from :meth:`start` to :meth:`stop`.

    It is a sink of a pipeline, too: the pipeline's results appear on the page, and the server runs
    while the pipeline does.

    Args:
        address: ``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT``; port 0 takes a free one. Without a
            host, and by default, only this machine can reach it.
        token: What lets people in. Bound to more than this machine, one is made if none is given.
        zones: Where zones drawn on the page go; by default into memory only.
        hosts: Further names the page may be asked for when bound to this machine only, such as that
            of a proxy in front of it.

    Raises:
        InvalidValueError: If the address, the token or a number is not acceptable.
        MissingDependencyError: If FastAPI, uvicorn, websockets or prometheus_client is missing.
    """

    name = "web page"
    durable = False

    def __init__(
        self,
        address: str = "127.0.0.1:8080",
        token: str | None = None,
        zones: ZonesStore | None = None,
        *,
        hosts: tuple[str, ...] = (),
        trusted_proxies: tuple[str, ...] = (),  # Whose headers count: addresses and networks.
        root_path: str = "",  # In front of the page's paths, like /cameras, if no proxy sends it.
        announce: Callable[[str], None] = _print,  # Told at the start where the page is, and token.
        stall: float = 10.0,  # Seconds without a processed frame after which the health is 503.
        most_viewers: int = 16,  # Browsers that may watch at once.
        most_fps: float = 15.0,  # Pictures per second and camera sent to a browser.
        quality: int = 75,  # Of the JPEGs, 1 to 100.
    ) -> None:
        for name, value in (("stall", stall), ("most_viewers", most_viewers), ("fps", most_fps)):
            if not value > 0:
                raise InvalidValueError(f"the web page's {name} must be above 0", got=value)
        if not 1 <= quality <= 100:
            raise InvalidValueError("the JPEG quality must be 1 to 100", got=quality)
        try:
            for package in ("fastapi", "uvicorn", "websockets"):
                import_module(package)
        except ImportError as error:
            raise missing(error, extra="web") from error
        self.host, self.port = parse_address(address)
        self.access = Access(token)
        self.results = ResultStore()
        self.zones = zones if zones is not None else ZonesStore()
        self._token, self._announce = token, announce
        self._snapshot: Callable[[], PipelineSnapshot] | None = None
        self._metrics: Metrics | None = None
        self._hosts = frozenset(map(_allowed_host, hosts))
        self._forwarding = Forwarding(trusted_proxies, root_path)
        names = self.results.names
        self._check = HealthCheck(names, stall)
        self.broadcaster = broadcaster = Broadcaster(
            self.results, self.zones, self.state, most_viewers, 1 / most_fps, quality
        )
        self._exposition = Exposition(
            self._judge, names, lambda: self._metrics, lambda: len(broadcaster.viewers)
        )
        self._uvicorn: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._opened = False

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def url(self) -> str:
        """Where the page is, without the token."""
        host = outward_host(self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def attach(self, pipeline: Pipeline) -> None:
        self._snapshot, self._metrics = pipeline.snapshot, pipeline.metrics

    def start(self) -> None:
        """Starts to serve; returns when the port answers, or raises RunError."""
        if self.running:
            raise RunError("the web page is already served", got=self.url)
        listener = bind(self.host, self.port)
        self.port = listener.getsockname()[1]
        local = is_loopback(listener)
        made = not local and self._token is None
        if made:
            self._token = new_token()
            self.access = Access(self._token)
        # Cookies know hosts, not ports: two pipelines on one machine must not share one.
        self.access.cookie = f"trt_afdet_{self.port}"
        own = parse_host(f"[{self.host}]" if ":" in self.host else self.host)[0] or ""
        hosts = LOCAL_NAMES | self._hosts | {own} if local else None
        app = make_app(self.broadcaster, self.access, lambda: self._judge()[1], self._exposition)
        server = _uvicorn_server(Guard(app, self.access, hosts, self._forwarding))

        def leave() -> None:
            server.should_exit = server.force_exit = True

        self._uvicorn = server
        self._thread = Worker(self._run, args=(server, listener), name="web server", on_exit=leave)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                listener.close()
                raise RunError("the web page does not start", got=self._failure)
            time.sleep(0.005)
        if self._forwarding.networks and self._token is None:
            what = "everybody who reaches the proxy sees the cameras"
            log.warning("the web page has no token: %s", what)
        # A token that was given is known; repeating it would only spread it.
        self._announce(f"web page: {self.url}{f'?token={self._token}' if made else ''}")

    def stop(self, timeout: float = 1.0) -> None:
        """Disconnects the browsers and stops within ``timeout`` s. Stopping twice is fine."""
        server, thread = self._uvicorn, self._thread
        if server is None or thread is None:
            return
        server.should_exit = True
        thread.join(timeout / 2)
        server.force_exit = True
        thread.join(timeout / 2)
        self._uvicorn = self._thread = None

    def open(self) -> None:
        """Starts unless it runs already, in which case :meth:`close` leaves it running."""
        self._opened = not self.running
        if self._opened:
            self.start()

    def write(self, result: StreamResult) -> None:
        self.results.add_result(result)

    def status(self, event: StatusEvent) -> None:
        self.results.add_status(event)

    def close(self) -> None:
        if self._opened:
            self.stop()

    def state(self) -> dict[str, Any]:
        """The state of the page, JSON-able: seconds, and null for what is not known yet."""
        snapshot, health = self._judge()
        results = self.results
        results.keep_only({results.names.of(name) for name in snapshot.states})
        sizes, sinks = results.sizes(), snapshot.sinks.items()
        return {
            "type": "state",
            "time": round(time.time(), 3),
            "uptime": round(snapshot.uptime, 1),
            "health": {"status": health.status, "reasons": list(health.reasons)},
            "viewers": len(self.broadcaster.viewers),
            "colors": results.colors(),
            "cameras": [_camera(snapshot, name, results, sizes) for name in snapshot.states],
            "sinks": [{"name": redact(name), **count._asdict()} for name, count in sinks],
        }

    def _judge(self) -> tuple[PipelineSnapshot, Health]:
        nothing = PipelineSnapshot({}, {}, {}, {}, {}, 0.0)
        snapshot = self._snapshot() if self._snapshot is not None else nothing
        return snapshot, self._check.judge(snapshot)

    def _run(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            asyncio.run(self._serve(server, listener))
        except BaseException as error:
            self._failure = error
            log.error("the web page has stopped: %s", error)

    async def _serve(self, server: uvicorn.Server, listener: socket.socket) -> None:
        from anyio.to_thread import current_default_thread_limiter

        current_default_thread_limiter().total_tokens = 1  # Reads static files.
        broadcasting = asyncio.create_task(self.broadcaster.run())
        try:
            await server.serve(sockets=[listener])
        finally:
            broadcasting.cancel()
            await asyncio.gather(broadcasting, return_exceptions=True)
            # Browsers that do not answer the closing handshake are not waited for.
            for connection in list(server.server_state.connections):
                with suppress(AttributeError):
                    connection.transport.abort()


def _allowed_host(text: str) -> str:
    """A host name of the page, without its port."""
    name, _ = parse_host(text if text.count(":") < 2 or "]" in text else f"[{text}]")
    if name is None:
        raise InvalidValueError("the web page's hosts must be host names", got=text)
    return name


def _uvicorn_server(app: Guard) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=_limited_protocol(), h11_max_incomplete_event_size=1 << 14,
        ws="websockets-sansio", ws_max_size=1 << 15, ws_ping_interval=20.0, ws_ping_timeout=20.0,
        ws_per_message_deflate=False,  # JPEGs do not get smaller.
        lifespan="off", loop="asyncio", log_config=None, log_level="critical", access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=128,
        timeout_keep_alive=10, timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config)


def _limited_protocol() -> type[Any]:
    """uvicorn's HTTP/1.1 that disconnects slow clients and closes surplus connections.

    uvicorn limits idle connections (``timeout_keep_alive``) and concurrent requests, but neither
    the time that a request takes to arrive nor the number of connections: clients that begin a
    request and do not finish it would in the end keep everybody else out.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedProtocol(H11Protocol):
        _deadline: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()  # Cameras need file descriptors, too.
            else:
                self._set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._clear_deadline()
            super().connection_lost(exc)

        def _set_deadline(self) -> None:
            cycle = self.cycle
            whole = cycle is not None and not cycle.more_body and not cycle.response_complete
            if whole or self.transport.get_protocol() is not self:
                self._clear_deadline()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_TIMEOUT, self._disconnect)

        def _clear_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _disconnect(self) -> None:
            # A WebSocket has another protocol by now.
            if self.transport.get_protocol() is self:
                self.transport.abort()

    return LimitedProtocol


def _camera(
    snapshot: PipelineSnapshot, name: str, results: ResultStore, sizes: dict[str, tuple[int, int]]
) -> dict[str, Any]:
    event = snapshot.states[name]
    public = results.names.of(name)
    figures = snapshot.sources.get(name)
    camera: dict[str, Any] = {
        "name": public,
        "key": slug(public),
        "state": event.state,
        "detail": redact(event.detail),
        "since": round(event.wall_time, 3),
        "size": sizes.get(public),
        "tallies": results.tallies(public),
        "reconnects": snapshot.reconnects.get(name, 0),
        **asdict(snapshot.queues.get(name, QueueCount(0, 0, 0, 0))),
    }
    if figures is not None:
        camera |= {
            "processed": figures.processed,
            "fps": round(figures.fps, 2),
            "p50": _number(figures.latency_p50),
            "p99": _number(figures.latency_p99),
            "objects": figures.objects,
        }
    return camera


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
