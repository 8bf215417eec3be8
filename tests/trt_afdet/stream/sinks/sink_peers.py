"""Real servers on free ports, which can be killed and come back."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.skips import skip_test
from tests.trt_afdet.stream.sinks.sink_makers import wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A server as a process of its own.

    Args:
        program: Its name, and where Debian keeps it if it is not on the path.
        arguments: Of the command line, from its port.
    """

    def __init__(self, program: str, arguments: Callable[[int], list[str]]) -> None:
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
        if found is None:
            skip_test(f"{program} is not installed", "make peers")
        self.port = free_port()
        self._command = [found, *arguments(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: listens(self.port))

    def kill(self) -> None:
        """As a power cut does."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """It holds its connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


def mosquitto(folder: Path, *lines: str) -> Process:
    """A broker, with further lines of its configuration."""
    configuration = folder / "mosquitto.conf"

    def arguments(port: int) -> list[str]:
        more = "\n".join(lines) if lines else "allow_anonymous true"
        configuration.write_text(f"listener {port} 127.0.0.1\n{more}\n")
        return ["-c", str(configuration)]

    return Process("mosquitto", arguments)


def redis_server(folder: Path, *options: str) -> Process:
    return Process(
        "redis-server",
        lambda port: [
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *options,
        ],
    )


class Hook:
    """An HTTP server that keeps what is posted.

    Attributes:
        answers: Status codes of the next answers; 200 after them.
        posts: Path, headers and body of each post.
        delay: Seconds before each answer.
        refuse: Posts for which it is true are answered with ``refusal``.
    """

    def __init__(self, port: int = 0) -> None:
        self.answers: list[int | tuple[int, dict[str, str]]] = []
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.delay = threading.Event()
        self.refuse: Callable[[dict[str, Any]], bool] = lambda body: False
        self.refusal = 422
        self.slow = False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                hook._connections.append(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.slow:
                    hook.delay.wait(300)
                hook.posts.append((self.path, dict(self.headers), body))
                answer = hook.answers.pop(0) if hook.answers else 200
                code, headers = answer if isinstance(answer, tuple) else (answer, {})
                if code == 200 and hook.refuse(json.loads(body)):
                    code = hook.refusal
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if code == 200:
                    hook.taken += json.loads(body)["records"]

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self.taken: list[dict[str, Any]] = []
        self._connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self.delay.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._connections:  # Else those that are kept alive would go on.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
