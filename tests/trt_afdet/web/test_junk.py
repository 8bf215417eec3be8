"""A thousand requests that are none: the server answers or hangs up, and stays the size it was."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.trt_afdet.web.web_rig import camera, serving, wait_for
from trt_afdet.web import server as server_module
from trt_afdet.web.server import WebServer

ROUNDS = 1000


def junk(random_: random.Random) -> bytes:
    """One of many kinds of nonsense."""
    noise = random_.randbytes(random_.randrange(1, 600))
    host = b"Host: localhost\r\n"
    kinds = [
        noise,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + noise + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /static/../../../../etc/passwd HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /" + b"a" * random_.randrange(1, 60_000) + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host * 2 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: " + noise + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X-Y: z\r\n" * 5000 + b"\r\n",
        b"GET / HTTP/9.9\r\n" + host + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PUT /api/zones/yard HTTP/1.1\r\n" + host + b"Content-Length: 99999999\r\n\r\n" + noise,
        b"PUT /api/zones/yard HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n\r\n",
        b"PUT /api/zones/yard HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(noise) + noise,
        b"PUT /api/zones/yard HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /login HTTP/1.1\r\n" + host + b"Content-Length: 400\r\n\r\n" + noise,
        b"GET /ws HTTP/1.1\r\n" + host + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + host + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + noise,
        b"GET /?token=" + noise.hex().encode() + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /api/picture/yard?width=9e99 HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /api/picture/%ff%fe%00 HTTP/1.1\r\n" + host + b"\r\n",
        b"",
    ]
    return random_.choice(kinds)


def send(server: WebServer, data: bytes, random_: random.Random) -> None:
    with socket.create_connection((server.host, server.port), 60) as raw:
        try:
            raw.sendall(data)
            if random_.random() < 0.5:
                raw.shutdown(socket.SHUT_WR)
                raw.settimeout(0.05)
                raw.recv(4096)
        except OSError:
            pass  # It hung up, or had nothing to say.


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "correct-horse-battery"])
def test_a_thousand_junk_requests_change_nothing(token: str | None) -> None:
    random_ = random.Random(5)
    with serving([camera("yard")], token=token) as server:
        # Wrong tokens close the door for a minute, but not to those who are in.
        browser = requests.Session()
        browser.post(server.url + "login", data={"token": token}, timeout=60)
        for _ in range(ROUNDS // 4):  # Everything has been used once.
            send(server, junk(random_), random_)
        wait_for(lambda: not server.broadcaster.viewers, "viewers to be gone")
        threads, files, memory = threading.active_count(), descriptors(), resident()
        for _ in range(ROUNDS):
            send(server, junk(random_), random_)
        wait_for(lambda: not server.broadcaster.viewers, "viewers to be gone")
        wait_for(lambda: descriptors() <= files + 2, "connections to be closed")
        assert threading.active_count() <= threads
        # The allocator's own play; a leak of 8 KiB a request would show.
        assert resident() - memory < 8 * ROUNDS * 1024
        before = browser.get(server.url + "api/state", timeout=60).json()
        assert before["cameras"][0]["state"] == "live"
        assert server.zones.all() == {}

        def processed() -> int:
            state = browser.get(server.url + "api/state", timeout=60).json()
            return int(state["cameras"][0]["processed"])

        wait_for(lambda: processed() > before["cameras"][0]["processed"], "the pipeline to go on")


def test_those_who_never_finish_a_request_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_TIMEOUT", 1.5)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with serving() as server:
        for beginning in (
            b"",
            b"GET / HT",
            b"PUT /api/zones/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ):
            with socket.create_connection((server.host, server.port), 60) as raw:
                raw.sendall(beginning)
                try:
                    while raw.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
        # One who does is not.
        with socket.create_connection((server.host, server.port), 60) as raw:
            for _ in range(2):
                raw.sendall(whole)
                answer = b""
                while not answer.endswith(b"}"):
                    answer += raw.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200")
                time.sleep(2.0)  # timing: longer than the patience with unfinished requests
            # Until it begins another one and does not finish that.
            raw.sendall(b"GET / HT")
            assert raw.recv(65536) == b""


def test_a_flood_of_connections_does_not_use_up_descriptors() -> None:
    with serving() as server:
        before = descriptors()
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(socket.create_connection((server.host, server.port), 60))
            # Both ends are in this process.
            wait_for(
                lambda: descriptors() <= before + 400 + server_module.MAX_CONNECTIONS + 8,
                "the surplus to be closed",
            )
        wait_for(lambda: descriptors() <= before + 8, "all to be closed")
        assert requests.get(server.url + "healthz", timeout=60).status_code == 200


def test_many_idle_connections_do_not_keep_others_out() -> None:
    with serving() as server:
        idle = [socket.create_connection((server.host, server.port), 60) for _ in range(100)]
        try:
            assert requests.get(server.url + "healthz", timeout=60).status_code == 200
        finally:
            for connection in idle:
                connection.close()
