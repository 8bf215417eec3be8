"""The server over HTTP: what it gives to whom, and what it refuses."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.trt_afdet.web.web_rig import camera, dead, serving, wait_for
from trt_afdet.errors import RunError
from trt_afdet.web.guard import LONGEST_BODY
from trt_afdet.web.server import WebServer
from trt_afdet.web.zones_store import ZonesStore

TOKEN = "correct-horse-battery"
SQUARE = {"name": "door", "polygon": [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]}
SECRETS = ("hunter2", "swordfish", "admin")


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """On loopback, without a token, two cameras and a dead one."""
    zones = ZonesStore(tmp_path_factory.mktemp("zones") / "zones.json")
    plans = [camera("yard", every=10), camera("a/b ünï", "seed=4"), dead()]
    with serving(plans, zones=zones) as server:
        yield server


@pytest.fixture(scope="module")
def closed_server() -> Iterator[WebServer]:
    """With a token."""
    with serving([camera("yard"), dead()], token=TOKEN) as server:
        yield server


def get(server: WebServer, path: str, **options: Any) -> requests.Response:
    options = {"timeout": 10, "allow_redirects": False, **options}
    return requests.get(server.url.rstrip("/") + path, **options)


def put(server: WebServer, camera: str, value: Any, **options: Any) -> requests.Response:
    url = f"{server.url}api/zones/{requests.utils.quote(camera, safe='')}"
    return requests.put(url, json=value, timeout=60, **options)


def watch(server: WebServer, **options: Any) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "ws", **options)


def test_every_answer_forbids_foreign_content(open_server: WebServer) -> None:
    for path in ("/", "/static/app.js", "/healthz", "/metrics", "/api/state", "/nothing"):
        headers = get(open_server, path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers
        kept = path in ("/", "/static/app.js")
        assert headers["cache-control"] == ("no-cache" if kept else "no-store")


def test_the_page_is_complete_and_loads_nothing_from_elsewhere(open_server: WebServer) -> None:
    page = get(open_server, "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("app.js", "style.css", "icon.svg", "login.html"):
        answer = get(open_server, f"/static/{name}")
        assert answer.status_code == 200
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace(
            '${location.protocol === "https:" ? "wss" : "ws"}://', ""
        )
        again = get(
            open_server, f"/static/{name}", headers={"if-none-match": answer.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
    assert requests.head(open_server.url, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static",
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static/....//server.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/..%5cserver.py",
        "/etc/passwd",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/server.py",
    ],
)
def test_nothing_but_the_page_is_served(open_server: WebServer, path: str) -> None:
    with socket.create_connection((open_server.host, open_server.port), 5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404"), answer[:100]
    assert b"there is nothing here" in answer


def test_other_methods_are_refused(open_server: WebServer) -> None:
    for method in ("POST", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        answer = requests.request(method, open_server.url + "api/state", timeout=60)
        assert answer.status_code == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:9", 200),  # Through a tunnel the port is another one.
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("", 403),
    ],
)
def test_a_foreign_name_is_turned_away(open_server: WebServer, host: str, status: int) -> None:
    assert get(open_server, "/healthz", headers={"host": host}).status_code == status


def test_a_named_proxy_is_let_through() -> None:
    with serving(hosts=("Cameras.example",)) as server:
        headers = {"host": "cameras.example"}
        assert get(server, "/healthz", headers=headers).status_code == 200


def test_the_figures_arrive(open_server: WebServer) -> None:
    def settled() -> Any:
        state = get(open_server, "/api/state").json()
        cameras = {c["name"]: c for c in state["cameras"]}
        ready = cameras["yard"].get("processed", 0) > 5 and cameras["dead"]["reconnects"]
        return (state, cameras) if ready else None

    state, cameras = wait_for(settled, "processed frames")
    assert set(cameras) == {"yard", "a/b ünï", "dead"}
    yard = cameras["yard"]
    assert yard["state"] == "live"
    assert yard["size"] == [320, 240]
    assert 0 < yard["p50"] <= yard["p99"] < 10
    assert yard["fps"] > 1
    assert yard["objects"].keys() == {"person", "car", "dog"}
    assert state["health"]["status"] == "degraded"
    assert state["colors"]["person"].startswith("#")
    assert state["sinks"][0]["name"] == "web page"


def test_pictures_are_jpegs_made_to_measure(open_server: WebServer) -> None:
    for name in ("yard", "a%2Fb%20%C3%BCn%C3%AF", "a/b ünï"):
        answer = get(open_server, f"/api/picture/{name}?width=160")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content[:2] == b"\xff\xd8"
    assert get(open_server, "/api/picture/nobody").status_code == 404
    assert get(open_server, "/api/picture/yard?width=wide").status_code == 422


def test_no_password_leaves_the_server(open_server: WebServer) -> None:
    wait_for(lambda: get(open_server, "/api/events").json()["events"], "events")
    for path in ("/api/state", "/api/events", "/healthz", "/metrics", "/api/zones"):
        text = get(open_server, path).text
        assert not [secret for secret in SECRETS if secret in text], path
    assert "***@10.1.2.3" in get(open_server, "/api/state").text


def test_zones_are_saved_and_told(open_server: WebServer) -> None:
    told: list[Any] = []
    open_server.zones.on_zones = lambda source, zones: told.append((source, zones))
    answer = put(open_server, "a/b ünï", {"zones": [SQUARE]})
    assert answer.status_code == 200
    expected = {"zones": [SQUARE], "lines": []}
    assert answer.json() == expected
    assert get(open_server, "/api/zones/a%2Fb%20%C3%BCn%C3%AF").json() == expected
    assert get(open_server, "/api/zones").json() == {"a/b ünï": expected}
    assert told == [("a/b ünï", expected)]
    path = open_server.zones.path
    assert path is not None
    assert json.loads(path.read_text())["a/b ünï"] == expected
    open_server.zones.on_zones = None


def test_bad_zones_are_refused(open_server: WebServer) -> None:
    before = get(open_server, "/api/zones").json()
    answer = put(open_server, "yard", {"zones": [{**SQUARE, "polygon": [[0, 0], [2, 0], [0, 1]]}]})
    assert answer.status_code == 422
    assert "zone door" in answer.json()["error"]
    assert put(open_server, "nobody", {}).status_code == 404
    url = open_server.url + "api/zones/yard"
    json_type = {"content-type": "application/json"}
    for body, headers, status in (
        (b"{", json_type, 400),
        (b"[" * 50_000, json_type, 400),
        (b"\xff", json_type, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b" " * (LONGEST_BODY + 1), json_type, 413),
        (b"{}", {**json_type, "origin": "http://evil.example"}, 403),
        (b"{}", {**json_type, "origin": "null"}, 403),
    ):
        answer = requests.put(url, data=body, headers=headers, timeout=60)
        assert answer.status_code == status, (body[:20], answer.text)
    # Without a length the body is counted while it comes.
    pieces = (b" " * 4096 for _ in range(LONGEST_BODY // 4096 + 8))
    answer = requests.put(url, data=pieces, headers=json_type, timeout=60)
    assert answer.status_code == 413
    assert get(open_server, "/api/zones").json() == before


def test_a_refusal_reaches_those_who_still_send_their_body(open_server: WebServer) -> None:
    head = (
        b"PUT /api/zones/yard HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
        b"Content-Length: 200000\r\n\r\n"
    )
    with socket.create_connection((open_server.host, open_server.port), 60) as raw:
        for part in (head, *[b" " * 20_000] * 10):
            raw.sendall(part)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.endswith(b"}")


def test_an_own_origin_may_write(open_server: WebServer) -> None:
    headers = {"origin": open_server.url.rstrip("/")}
    assert put(open_server, "yard", {}, headers=headers).status_code == 200


def test_full_disk_is_said_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    zones = ZonesStore()
    zones.path = tmp_path / "file" / "zones.json"
    with serving([camera("yard")], zones=zones) as server:
        answer = put(server, "yard", {"zones": [SQUARE]})
        assert answer.status_code == 507
        assert "cannot write" in answer.json()["error"]
        assert str(tmp_path) not in answer.text
        assert get(server, "/api/zones").json() == {}


def test_metrics_are_what_prometheus_reads(open_server: WebServer) -> None:
    def scrape() -> dict[str, Any]:
        answer = get(open_server, "/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return {f.name: f for f in text_string_to_metric_families(answer.text)}

    wait_for(lambda: "trt_afdet_latency_seconds" in scrape(), "latencies")
    first = scrape()

    def value(families: dict[str, Any], family: str, **labels: str) -> float:
        found = [
            s.value
            for s in families[family].samples
            if all(s.labels.get(k) == v for k, v in labels.items())
        ]
        assert len(found) == 1, (family, labels, found)
        return float(found[0])

    processed = value(first, "trt_afdet_frames_processed", source="yard")
    assert processed > 0
    assert value(first, "trt_afdet_objects", source="yard", **{"class": "person"}) > 0
    assert value(first, "trt_afdet_source_state", source="yard", state="live") == 1
    assert value(first, "trt_afdet_source_state", source="dead", state="live") == 0
    assert value(first, "trt_afdet_healthy") == 1
    assert value(first, "trt_afdet_sink_written", sink="web page") > 0
    for family in ("trt_afdet_frames_received", "trt_afdet_frames_waiting"):
        assert {s.labels["source"] for s in first[family].samples} == {"yard", "a/b ünï", "dead"}
    assert {"full", "stale"} == {
        s.labels["reason"] for s in first["trt_afdet_frames_dropped"].samples
    }
    assert value(first, "process_resident_memory_bytes") > 1e6
    histogram = first["trt_afdet_latency_seconds"]
    assert histogram.type == "histogram"
    buckets = [
        (float(s.labels["le"]), s.value)
        for s in histogram.samples
        if s.name.endswith("_bucket") and s.labels["source"] == "yard"
    ]
    assert buckets == sorted(buckets)
    assert [v for _, v in buckets] == sorted(v for _, v in buckets)
    (count,) = [
        s.value
        for s in histogram.samples
        if s.name.endswith("_count") and s.labels["source"] == "yard"
    ]
    assert buckets[-1] == (float("inf"), count)
    assert count >= processed
    names = [(s.name, tuple(sorted(s.labels.items()))) for f in first.values() for s in f.samples]
    assert len(names) == len(set(names))
    wait_for(
        lambda: value(scrape(), "trt_afdet_frames_processed", source="yard") > processed,
        "a counter that grows",
    )


def test_openmetrics_is_given_to_those_who_ask(open_server: WebServer) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

    answer = get(
        open_server,
        "/metrics",
        headers={"accept": "application/openmetrics-text; version=1.0.0"},
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert len(list(parse(answer.text))) > 10


def test_health_turns_with_the_pipeline() -> None:
    from tests.trt_afdet.web.web_rig import Dead
    from trt_afdet.stream.pipeline import SourceSpec
    from trt_afdet.stream.sources.base import SourceInfo, UnusableSourceError

    class Refused(Dead):
        def open(self) -> SourceInfo:
            raise UnusableSourceError("wrong password hunter2 for rtsp://admin:hunter2@h/")

    with serving() as server:
        assert get(server, "/healthz").json() == {"status": "ok", "reasons": []}
    with serving([camera("yard"), SourceSpec("dead", Refused)]) as server:
        answer = get(server, "/healthz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    with serving(stall=0.2) as server:
        from tests.trt_afdet.stream.monitoring.test_health import snapshot

        server._snapshot = lambda: snapshot({"a": "live"}, 5)
        wait_for(lambda: get(server, "/healthz").status_code == 503, "a stalled detector")
        answer = get(server, "/healthz")
        assert answer.json()["reasons"][0].startswith("no frame was processed")
        server._snapshot = lambda: snapshot({"a": "failed"}, 5)
        answer = get(server, "/healthz")
        assert answer.status_code == 503
        assert answer.json()["reasons"][0] == "all sources have failed"


def test_a_failing_snapshot_is_an_error_not_an_end(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("no")

    with caplog.at_level(logging.CRITICAL + 1), serving() as server:
        server._snapshot = broken
        assert get(server, "/api/state").status_code == 500
        assert get(server, "/healthz").status_code == 500
        server._snapshot = None
        assert get(server, "/healthz").status_code == 200


# --- The token ------------------------------------------------------------------------------


def test_without_the_token_there_is_only_the_way_in(closed_server: WebServer) -> None:
    answer = get(closed_server, "/")
    assert (answer.status_code, answer.headers["location"]) == (303, "login")
    assert "Sign in" in get(closed_server, "/login").text
    assert get(closed_server, "/static/style.css").status_code == 200
    for path in ("/api/state", "/api/events", "/api/zones", "/api/picture/yard", "/metrics"):
        answer = get(closed_server, path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert put(closed_server, "yard", {}).status_code == 401
    with pytest.raises(InvalidStatus, match="403"):
        watch(closed_server).__enter__()
    # Whether all is well may be asked by a supervisor, but not which cameras there are.
    wait_for(
        lambda: get(closed_server, "/healthz").json() == {"status": "degraded"}, "the dead camera"
    )


@pytest.mark.parametrize(
    "header", ["Bearer wrong-wrong-wrong", "Bearer", "Bearer ", f"Basic {TOKEN}", "Bearer \xe9"]
)
def test_a_wrong_token_is_refused(header: str) -> None:
    with serving(token=TOKEN) as server:
        headers = {"authorization": header.encode("latin-1")}
        assert get(server, "/api/state", headers=headers).status_code == 401
        assert get(server, "/api/state?token=wrong-wrong-wrong").status_code == 401
        cookie = {"cookie": f"{server.access.cookie}=ffffffffff.{'0' * 64}"}
        assert get(server, "/api/state", headers=cookie).status_code == 401


def test_a_token_becomes_a_cookie_and_leaves_the_address(closed_server: WebServer) -> None:
    session = requests.Session()
    answer = session.get(f"{closed_server.url}?token={TOKEN}", allow_redirects=False, timeout=60)
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly; SameSite=Strict" in cookie
    assert session.get(closed_server.url + "api/state", timeout=60).status_code == 200
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert get(closed_server, "/metrics", headers=bearer).status_code == 200
    assert "reasons" in get(closed_server, "/healthz", headers=bearer).json()


def test_the_exchange_leads_to_no_other_site(closed_server: WebServer) -> None:
    for path in ("//evil.example", "/\\evil.example", "///evil.example/x"):
        with socket.create_connection((closed_server.host, closed_server.port), 5) as raw:
            raw.sendall(f"GET {path}?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = raw.recv(65536).decode()
        (place,) = [line for line in head.splitlines() if line.startswith("location: ")]
        host = f"http://localhost:{closed_server.port}"
        leads = urljoin(host + path, place.removeprefix("location: "))
        assert urlsplit(leads).netloc == urlsplit(host).netloc


def test_the_form_signs_in(closed_server: WebServer) -> None:
    session = requests.Session()
    url = closed_server.url + "login"
    wrong = session.post(url, data={"token": "wrong-wrong-wrong"}, timeout=60)
    assert wrong.status_code == 401
    assert 'id="wrong">' in wrong.text
    foreign = session.post(
        url, data={"token": TOKEN}, headers={"origin": "http://evil.example"}, timeout=10
    )
    assert foreign.status_code == 403
    right = session.post(url, data={"token": TOKEN}, timeout=60)
    assert right.status_code == 200
    assert right.url == closed_server.url
    ((name, value),) = session.cookies.items()
    with watch(closed_server, additional_headers={"cookie": f"{name}={value}"}) as socket_:
        assert json.loads(socket_.recv(60))["type"] == "state"


def test_guessing_ends_after_some_tries() -> None:
    with serving(token=TOKEN) as server:
        statuses = [
            requests.post(
                server.url + "login", data={"token": f"wrong-token-{n}"}, timeout=10
            ).status_code
            for n in range(12)
        ]
        assert statuses == [401] * 10 + [429] * 2
        assert get(server, f"/?token={TOKEN}").status_code == 429


def test_bound_to_all_addresses_a_token_is_made_and_told_once() -> None:
    told: list[str] = []
    with serving(address="0.0.0.0:0", announce=told.append) as server:
        (line,) = told
        token = line.partition("?token=")[2]
        assert len(token) >= 32
        local = f"http://127.0.0.1:{server.port}/api/state"
        assert requests.get(local, timeout=60).status_code == 401
        # Any host name: who has the cookie or the token is not foreign site.
        headers = {"authorization": f"Bearer {token}", "host": "camera-box.local"}
        assert requests.get(local, headers=headers, timeout=60).status_code == 200


def test_a_given_token_is_not_repeated() -> None:
    told: list[str] = []
    with serving(address="0.0.0.0:0", token=TOKEN, announce=told.append):
        assert TOKEN not in told[0]


# --- Watching -------------------------------------------------------------------------------


def next_picture(viewer: ClientConnection, seconds: float = 60.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        data = viewer.recv(max(0.01, deadline - time.monotonic()))  # timing: only ends a hang
        if isinstance(data, bytes):
            (length,) = struct.unpack(">I", data[:4])
            assert data[4 + length : 6 + length] == b"\xff\xd8"
            return dict(json.loads(data[4 : 4 + length]))


def read_to_the_end(viewer: ClientConnection) -> None:
    while True:
        viewer.recv(60)


def ask(viewer: ClientConnection, **cameras: int) -> None:
    viewer.send(json.dumps({"type": "watch", "cameras": cameras}))


def newest(server: WebServer) -> int:
    """Number of the newest frame that has reached the page."""
    latest = server.results.latest("yard")
    assert latest is not None
    return latest.result.frame.sequence


def shown(viewer: ClientConnection, camera: str) -> None:
    viewer.send(json.dumps({"type": "shown", "camera": camera}))


def test_a_viewer_gets_all_it_needs_and_only_the_pictures_it_asks_for() -> None:
    with serving([camera("yard", every=5), camera("gate")]) as server, watch(server) as viewer:
        kinds: set[str] = set()
        while kinds < {"state", "zones", "points", "events"}:
            message = viewer.recv(60)
            assert isinstance(message, str)
            kinds.add(json.loads(message)["type"])
        assert server.broadcaster.encoded == 0
        ask(viewer, yard=320, nobody=320)
        header = next_picture(viewer)
        assert header["camera"] == "yard"
        assert header["size"] == [320, 240]
        assert len(header["boxes"]) == 3
        assert all(-1 <= v <= 2 for box in header["boxes"] for v in box["box"])
        put(server, "yard", {"zones": [SQUARE]})

        def told() -> bool:
            message = viewer.recv(60)
            return isinstance(message, str) and "door" in json.loads(message).get("zones", {}).get(
                "yard", {"zones": [{"name": ""}]}
            )["zones"][0].get("name", "")

        wait_for(told, "the new zone")


def test_one_who_does_not_show_pictures_gets_no_more_of_them() -> None:
    with serving([camera("yard", "fps=60")]) as server, watch(server) as viewer:
        ask(viewer, yard=320)
        sequences = [next_picture(viewer)["sequence"] for _ in range(2)]
        wait_for(lambda: newest(server) > sequences[-1] + 40, "40 frames more")
        with pytest.raises(TimeoutError):
            next_picture(viewer, 0.1)
        assert server.broadcaster.encoded <= 3
        shown(viewer, "yard")
        # The next one is of now, not one that has waited.
        assert next_picture(viewer)["sequence"] > sequences[-1] + 40


def test_a_frame_is_encoded_once_for_all_who_watch() -> None:
    with serving([camera("yard", "fps=30")], most_fps=10) as server:
        with ExitStack() as stack:
            viewers = [stack.enter_context(watch(server)) for _ in range(5)]
            received: list[list[int]] = [[] for _ in viewers]
            stop = threading.Event()

            def follow(number: int) -> None:
                ask(viewers[number], yard=320)
                while not stop.is_set():
                    received[number].append(next_picture(viewers[number])["sequence"])
                    shown(viewers[number], "yard")

            threads = [threading.Thread(target=follow, args=(n,)) for n in range(len(viewers))]
            started = time.monotonic()
            for thread in threads:
                thread.start()
            wait_for(lambda: min(map(len, received)) >= 12, "pictures for all")
            spent = time.monotonic() - started
            stop.set()
            for thread in threads:
                thread.join(60)
            assert server.broadcaster.encoded <= 10 * spent + 3
            # What is still on its way to one of them has been encoded, too.
            assert server.broadcaster.encoded <= len(set().union(*received)) + len(viewers)
            encoded = server.broadcaster.encoded
        wait_for(lambda: not server.broadcaster.viewers, "viewers to be gone")
        sequence = newest(server)
        wait_for(
            lambda: newest(server) > sequence + 10,
            "frames nobody watches",
        )
        assert server.broadcaster.encoded <= encoded + 1


def test_a_viewer_that_reads_nothing_slows_nobody_down() -> None:
    with (
        serving([camera("yard", "fps=30&width=1280&height=720")]) as server,
        socket.create_connection((server.host, server.port)) as stuck,
    ):
        stuck.sendall(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        wait_for(lambda: server.broadcaster.viewers, "the stuck viewer")
        with watch(server) as viewer:
            ask(viewer, yard=640)
            for _ in range(10):
                next_picture(viewer)
                shown(viewer, "yard")


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        "5",
        '{"type": "explode"}',
        '{"type": "watch"}',
        '{"type": "watch", "cameras": []}',
        '{"type": "watch", "cameras": {"yard": "wide"}}',
        '{"type": "watch", "cameras": {"yard": 1e999}}',
        '{"type": "shown", "camera": "nobody"}',
        "[" * 20_000,
        b"\x00\x01",
        "x" * 40_000,
    ],
)
def test_nonsense_closes_only_its_own_connection(
    open_server: WebServer, message: str | bytes
) -> None:
    with watch(open_server) as viewer:
        viewer.send(message)
        with pytest.raises(ConnectionClosed):
            read_to_the_end(viewer)
    with watch(open_server) as viewer:
        assert viewer.recv(60)
    wait_for(lambda: not open_server.broadcaster.viewers, "viewers to be gone")


def test_foreign_sites_and_too_many_viewers_are_kept_out() -> None:
    with serving(most_viewers=2) as server:
        with pytest.raises(InvalidStatus, match="403"):
            watch(server, origin="http://evil.example").__enter__()
        with (
            socket.create_connection((server.host, server.port)) as raw,
            pytest.raises(InvalidStatus, match="403"),
            connect("ws://evil.example/ws", sock=raw),
        ):
            pass
        own = server.url.rstrip("/")
        with watch(server, origin=own) as one, watch(server) as two:
            assert one.recv(60)
            assert two.recv(60)
            with watch(server) as three, pytest.raises(ConnectionClosed) as closed:
                three.recv(60)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        wait_for(lambda: not server.broadcaster.viewers, "viewers to be gone")
        with watch(server) as four:
            assert four.recv(60)


# --- Starting and stopping ------------------------------------------------------------------


def test_it_stops_while_people_watch_and_starts_again() -> None:
    with serving([camera("yard")]) as server, ExitStack() as stack:
        for _ in range(3):
            ask(stack.enter_context(watch(server)), yard=640)
        with socket.create_connection((server.host, server.port)) as idle:
            idle.sendall(b"GET / HTT")
            server.stop()
            assert not server.running
            server.stop()
        with pytest.raises(requests.ConnectionError):
            get(server, "/")
        server.start()
        assert get(server, "/healthz").status_code == 200
        with watch(server) as again:
            ask(again, yard=320)
            next_picture(again)
        server.stop()


def test_a_taken_port_ends_the_pipeline_with_one_line() -> None:
    from tests.trt_afdet.web.web_rig import no_detector
    from trt_afdet.stream.pipeline import Pipeline

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = WebServer(f"127.0.0.1:{port}", announce=lambda line: None)
        pipeline = Pipeline(no_detector, [camera("yard")], [server])
        with pytest.raises(RunError, match=f"cannot listen .*:{port}.*another program"):
            pipeline.run()
        assert not server.running
        with pytest.raises(RunError) as error:
            server.start()
        assert "\n" not in str(error.value)
