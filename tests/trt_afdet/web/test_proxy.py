"""The page behind proxies: whose headers count, what the browser asked for, and real proxies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.trt_afdet.web.proxy_rig import caddy, nginx
from tests.trt_afdet.web.web_rig import camera, serving, wait_for
from trt_afdet.errors import InvalidValueError
from trt_afdet.web.app import STATIC
from trt_afdet.web.proxy import BrowserRequest, ForwardedError, Forwarding, check_prefix, parse_host
from trt_afdet.web.server import WebServer

TOKEN = "correct-horse-battery"
ZONES = {"zones": [{"name": "z", "polygon": [[0, 0], [1, 0], [1, 1]]}], "lines": []}


def read(peer: str, *headers: tuple[str, str], prefix: str = "") -> BrowserRequest:
    forwarding = Forwarding(("127.0.0.1", "10.0.0.0/8", "::1"), prefix)
    return forwarding.read(peer, [(n.lower().encode(), v.encode("latin-1")) for n, v in headers])


HOST = ("Host", "page:8080")
FOR, PROTO, AT = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("127.0.0.1", [HOST], ("127.0.0.1", "page", 8080, None, "")),
        ("127.0.0.1", [(FOR, "9.9.9.9"), (PROTO, "https"), (AT, "cams.example")],
         ("9.9.9.9", "cams.example", None, "https", "")),
        # From anybody else they are worth nothing.
        ("9.9.9.9", [(FOR, "127.0.0.1"), (PROTO, "https"), (AT, "evil"),
                     ("X-Forwarded-Prefix", "/x"), ("Forwarded", "for=1.1.1.1;host=evil")],
         ("9.9.9.9", "page", 8080, None, "")),
        ("::ffff:127.0.0.1", [(FOR, "9.9.9.9")], ("9.9.9.9", "page", 8080, None, "")),
        ("::1", [(FOR, "2001:db8::1")], ("2001:db8::1", "page", 8080, None, "")),
        # What a client has made up stands on the left of what proxies add.
        ("127.0.0.1", [(FOR, "1.1.1.1, 9.9.9.9")], ("9.9.9.9", "page", 8080, None, "")),
        ("127.0.0.1", [(FOR, "1.1.1.1"), (FOR, "9.9.9.9")], ("9.9.9.9", "page", 8080, None, "")),
        ("127.0.0.1", [(FOR, "9.9.9.9, 10.1.2.3"), (PROTO, "https, http"), (AT, "out, inside")],
         ("9.9.9.9", "out", None, "https", "")),
        ("127.0.0.1", [(FOR, "9.9.9.9, 10.1.2.3"), (PROTO, "https")],
         ("9.9.9.9", "page", 8080, "https", "")),
        ("127.0.0.1", [(FOR, "10.1.2.3")], ("10.1.2.3", "page", 8080, None, "")),
        ("127.0.0.1", [(FOR, "9.9.9.9:4711")], ("9.9.9.9", "page", 8080, None, "")),
        ("127.0.0.1", [(FOR, "[2001:db8::1]:4711")], ("2001:db8::1", "page", 8080, None, "")),
        ("127.0.0.1", [(AT, "cams.example:8443")], ("127.0.0.1", "cams.example", 8443, None, "")),
        ("127.0.0.1", [(AT, "cams.example"), ("X-Forwarded-Port", "8443")],
         ("127.0.0.1", "cams.example", 8443, None, "")),
        ("127.0.0.1", [(AT, "[2001:DB8:0::1]:8443")],
         ("127.0.0.1", "[2001:db8::1]", 8443, None, "")),
        ("127.0.0.1", [(PROTO, "wss")], ("127.0.0.1", "page", 8080, "https", "")),
        ("127.0.0.1", [("X-Forwarded-Prefix", "/a/b/")], ("127.0.0.1", "page", 8080, None, "/a/b")),
        ("127.0.0.1", [("X-Forwarded-Prefix", "/")], ("127.0.0.1", "page", 8080, None, "")),
        ("127.0.0.1", [("Forwarded", "for=9.9.9.9;proto=https;host=cams.example")],
         ("9.9.9.9", "cams.example", None, "https", "")),
        ("127.0.0.1", [("Forwarded", 'For="[2001:db8::1]:47"; Proto=https;host="c:8443";by=x')],
         ("2001:db8::1", "c", 8443, "https", "")),
        ("127.0.0.1", [("Forwarded", "for=1.1.1.1;host=evil, for=9.9.9.9;host=c")],
         ("9.9.9.9", "c", None, None, "")),
        ("127.0.0.1", [("Forwarded", "for=9.9.9.9;host=c, for=10.0.0.9;host=inside")],
         ("9.9.9.9", "c", None, None, "")),
        ("127.0.0.1", [("Forwarded", "for=_hidden, for=unknown")],
         ("unknown", "page", 8080, None, "")),
        ("127.0.0.1", [("Forwarded", "for=9.9.9.9"), (FOR, "9.9.9.9")],
         ("9.9.9.9", "page", 8080, None, "")),
        # Two hosts are none.
        ("9.9.9.9", [("Host", "a"), ("Host", "b")], ("9.9.9.9", None, None, None, "")),
    ],
)  # fmt: skip
def test_what_was_asked_for(
    peer: str, headers: list[tuple[str, str]], expected: tuple[Any, ...]
) -> None:
    if headers[0][0] != "Host":
        headers = [HOST, *headers]
    request = read(peer, *headers)
    assert (request.client, request.host, request.port, request.scheme, request.prefix) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", "for=1.1.1.1"), (FOR, "9.9.9.9")],
        [("Forwarded", "host=evil"), (AT, "cams.example")],
        [("Forwarded", 'for="1.1.1.1')],
        [("Forwarded", "for=1.1.1.1;for=2.2.2.2")],
        [("Forwarded", "=;=")],
        [(PROTO, "gopher")],
        [("X-Forwarded-Port", "0")],
        [("X-Forwarded-Port", "http")],
        *(
            [("X-Forwarded-Prefix", p)]
            for p in ("x", "//evil", "/a/../b", "/a b", '/a"b', "http://e/")
        ),
    ],
)
def test_a_proxy_that_cannot_be_understood_is_told_so(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(ForwardedError):
        read("127.0.0.1", HOST, *headers)
    assert read("9.9.9.9", HOST, *headers).host == "page"


@pytest.mark.parametrize(
    ("origin", "host", "port", "scheme", "same"),
    [
        ("http://page:8080", "page", 8080, None, True),
        ("http://PAGE:8080", "page", 8080, None, True),
        ("http://page:8081", "page", 8080, None, False),
        ("http://page", "page", 8080, None, False),
        ("http://page", "page", None, None, True),
        ("http://page:80", "page", None, None, True),
        ("http://page", "page", 80, None, True),
        ("https://page", "page", 443, None, True),
        ("https://page:443", "page", None, None, True),
        ("https://page", "page", None, None, True),
        ("https://page", "page", None, "https", True),
        ("http://page", "page", None, "https", False),
        ("https://page", "page", None, "http", False),
        ("https://page:8443", "page", None, "https", False),
        ("http://[::1]:8080", "[::1]", 8080, None, True),
        ("http://[0:0::1]:8080", "[::1]", 8080, None, True),
        ("http://page.", "page", None, None, True),
        ("http://evil", "page", None, None, False),
        ("http://page.evil", "page", None, None, False),
        ("http://user@page", "page", None, None, False),
        ("null", "page", None, None, False),
        ("", "page", None, None, False),
        ("file://page", "page", None, None, False),
        ("http://page:99999", "page", None, None, False),
        ("http://page", None, None, None, False),
    ],
)
def test_origins(
    origin: str, host: str | None, port: int | None, scheme: str | None, same: bool
) -> None:
    assert BrowserRequest("c", host, port, scheme).is_origin(origin) is same


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("LocalHost:8080", ("localhost", 8080)),
        ("localhost", ("localhost", None)),
        ("localhost.", ("localhost", None)),
        ("[::1]:8080", ("[::1]", 8080)),
        ("[0:0:0:0:0:0:0:1]", ("[::1]", None)),
        *((bad, (None, None)) for bad in (
            "", "a b", "a:b", "a/b", "user@localhost", "localhost:8080:1", "::1", "[::1", "[1.2]",
            "a:99999", "a, b",
        )),
    ],
)  # fmt: skip
def test_hosts(text: str, parsed: tuple[str | None, int | None]) -> None:
    assert parse_host(text) == parsed


def test_options_are_checked() -> None:
    for bad in ("nginx", "10.0.0.0/99", "", "*"):
        with pytest.raises(InvalidValueError, match="trusted proxy"):
            WebServer("127.0.0.1:0", trusted_proxies=(bad,))
    for bad in ("cams", "//cams", "/a/..", "/a?b", "/a b"):
        with pytest.raises(InvalidValueError, match="path in front"):
            WebServer("127.0.0.1:0", root_path=bad)
    assert [check_prefix(p) for p in ("", "/", "/a", "/a/", "/a/b~1/")] == [
        "", "", "/a", "/a", "/a/b~1",
    ]  # fmt: skip
    with pytest.raises(InvalidValueError, match="host names"):
        WebServer("127.0.0.1:0", hosts=("http://cams",))


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["host", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
                 "x-forwarded-port", "x-forwarded-prefix"]
            ),
            st.text(alphabet='for=;:,." \\[]1a/%httpsx\xff', max_size=30)
            | st.text(alphabet=st.characters(max_codepoint=255), max_size=30),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_anything_a_proxy_says_is_understood_or_refused(headers: list[tuple[str, str]]) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    forwarding = Forwarding(("127.0.0.1",))
    try:
        request = forwarding.read("127.0.0.1", pairs)
    except ForwardedError:
        return
    # Neither may break out of a header that it is written into.
    assert not set('\r\n";') & set(request.prefix) - {";"}
    assert request.prefix == "" or request.prefix.startswith("/")
    assert not request.prefix.startswith("//")


def test_every_address_in_the_page_is_relative() -> None:
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        found = re.findall(r"""(?:href|src|action)="(/[^"]*)"|fetch\(["'`](/[^"'`]*)""", text)
        assert not found, file.name


class From(HTTPAdapter):
    """A client at another address of this machine, which no proxy is."""

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, source_address=("127.0.0.2", 0), **more)


def client() -> requests.Session:
    session = requests.Session()
    session.mount("http://", From())
    return session


@pytest.fixture(params=["a sub-path", "the root", "no prefix sent", "path not removed", "caddy"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, WebServer]]:
    """Where a browser finds the page, behind a real proxy on another port, and its server."""
    options: dict[str, Any] = {"token": TOKEN, "trusted_proxies": ("127.0.0.1",)}
    change: tuple[tuple[str, str], ...] = ()
    path = "/cameras/"
    sent = "        proxy_set_header X-Forwarded-Prefix /cameras;\n"
    if request.param == "the root":
        change, path = (("location /cameras/", "location /"), (sent, "")), "/"
    elif request.param == "no prefix sent":
        change = ((sent, ""),)
    elif request.param == "path not removed":
        change, options["root_path"] = ((":8080/;", ":8080;"), (sent, "")), "/cameras"
    with serving([camera("a/b ünï")], **options) as server:
        proxy: AbstractContextManager[int] = (
            caddy(tmp_path, server.port)
            if request.param == "caddy"
            else nginx(tmp_path, server.port, change)
        )
        with proxy as port:
            yield f"http://127.0.0.1:{port}{path}", server


def test_the_page_works_behind_a_proxy(place: tuple[str, WebServer]) -> None:
    url, server = place
    session = client()
    # Without a token the way leads to the form, and the form leads back.
    answer = session.get(url, timeout=30)
    assert answer.url == f"{url}login"
    for name in re.findall(r'(?:href|src)="([^"#]+)"', answer.text):
        assert session.get(urljoin(answer.url, name), timeout=30).status_code == 200
    origin = {"origin": url.split("/", 3)[0] + "//" + url.split("/", 3)[2]}
    answer = session.post(f"{url}login", data={"token": TOKEN}, headers=origin, timeout=30)
    assert (answer.status_code, answer.url) == (200, url)
    for name in re.findall(r'(?:href|src)="([^"#]+)"', answer.text):
        assert session.get(urljoin(url, name), timeout=30).status_code == 200
    assert session.get(f"{url}api/state", timeout=30).json()["cameras"][0]["name"] == "a/b ünï"
    picture = session.get(f"{url}api/picture/a%2Fb%20%C3%BCn%C3%AF", timeout=30)
    assert picture.headers["content-type"] == "image/jpeg"
    put = f"{url}api/zones/a%2Fb%20%C3%BCn%C3%AF"
    assert session.put(put, json=ZONES, headers=origin, timeout=30).json() == ZONES
    # Another site, and another server on this machine.
    for foreign in (
        "http://evil.example",
        "https://evil.example",
        f"http://127.0.0.1:{server.port}",
    ):
        answer = session.put(put, json={}, headers={"origin": foreign}, timeout=30)
        assert answer.status_code == 403
    cookies = "; ".join(f"{c.name}={c.value}" for c in session.cookies)
    socket = url.replace("http://", "ws://") + "ws"
    with connect(socket, origin=origin["origin"], additional_headers={"Cookie": cookies}) as feed:
        assert json.loads(feed.recv(30))["type"] == "state"
    for refused in ({"Cookie": cookies, "Origin": "http://evil.example"}, {}):
        with pytest.raises(InvalidStatus):
            connect(socket, additional_headers=refused)
    # A token in the address is exchanged and leads to the same place.
    again = client()
    answer = again.get(f"{url}?token={TOKEN}", timeout=30)
    assert (answer.status_code, answer.url) == (200, url)


def test_a_path_without_its_slash_leads_to_the_page(place: tuple[str, WebServer]) -> None:
    url, _ = place
    answer = client().get(url.rstrip("/"), timeout=30)  # The root's comes back by itself.
    assert answer.url.startswith(url)


def test_the_cookie_fits_the_place(tmp_path: Path) -> None:
    tls = ("X-Forwarded-Proto $scheme", "X-Forwarded-Proto https")
    with serving(token=TOKEN, trusted_proxies=("127.0.0.1",)) as server:
        with nginx(tmp_path, server.port) as port:
            answer = requests.get(
                f"http://127.0.0.1:{port}/cameras/?token={TOKEN}", allow_redirects=False, timeout=30
            )
            assert "; Path=/cameras/;" in answer.headers["set-cookie"]
            assert "Secure" not in answer.headers["set-cookie"]
        with nginx(tmp_path, server.port, (tls,)) as port:
            answer = requests.get(
                f"http://127.0.0.1:{port}/cameras/?token={TOKEN}", allow_redirects=False, timeout=30
            )
            assert "; Path=/cameras/;" in answer.headers["set-cookie"]
            assert answer.headers["set-cookie"].endswith("; Secure")
            # The page is on https:// now, and only its own origin may change anything.
            for scheme, status in (("https", 200), ("http", 403)):
                answer = requests.post(
                    f"http://127.0.0.1:{port}/cameras/login",
                    data={"token": TOKEN},
                    headers={"origin": f"{scheme}://127.0.0.1:{port}"},
                    allow_redirects=False,
                    timeout=30,
                )
                assert answer.status_code == (303 if status == 200 else status)


#: What a client may make up to be somebody else, or somewhere else.
LIES = (
    {"X-Forwarded-For": "10.9.8.7"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Host": "evil.example"},
    {"X-Forwarded-Port": "1"},
    {"X-Forwarded-Prefix": "/evil"},
    {"Forwarded": "for=10.9.8.7;host=evil.example;proto=https"},
)


@pytest.mark.parametrize("lie", LIES, ids=[next(iter(lie)) for lie in LIES])
@pytest.mark.parametrize("way", ["directly", "through nginx"])
def test_what_a_client_makes_up_is_not_believed(
    lie: dict[str, str], way: str, tmp_path: Path
) -> None:
    with (
        serving(token=TOKEN, trusted_proxies=("127.0.0.1",)) as server,
        nginx(tmp_path, server.port) as port,
    ):
        session = client()
        at = {"directly": server.url, "through nginx": f"http://127.0.0.1:{port}/cameras/"}[way]
        prefix = "/" if way == "directly" else "/cameras/"
        answer = session.get(f"{at}?token={TOKEN}", headers=lie, allow_redirects=False, timeout=30)
        assert answer.status_code == 303
        assert f"; Path={prefix}; " in answer.headers["set-cookie"]
        assert "Secure" not in answer.headers["set-cookie"]
        assert "evil" not in str(answer.headers)
        # The origin that the lie would make right is still wrong.
        for origin in ("http://evil.example", "https://evil.example"):
            answer = session.post(
                f"{at}login",
                headers={**lie, "origin": origin},
                data={"token": TOKEN},
                timeout=30,
            )
            assert answer.status_code == 403
        # Whoever guesses is counted under the true address, whatever he says.
        for number in range(12):
            more = {key: value.replace("8", str(number % 10)) for key, value in lie.items()}
            answer = session.post(f"{at}login", headers=more, data={"token": "x" * 12}, timeout=30)
        assert answer.status_code == 429


def test_a_host_that_is_not_allowed_is_refused_behind_a_proxy(tmp_path: Path) -> None:
    names = ("cams.example:443", "[2001:DB8::0:1]")
    with (
        serving(trusted_proxies=("127.0.0.1",), hosts=names) as server,
        nginx(tmp_path, server.port) as port,
    ):
        for host, status in (
            ("cams.example", 200), ("CAMS.example:8443", 200), ("cams.example.", 200),
            ("[2001:db8::1]", 200), ("localhost", 200), (f"127.0.0.1:{port}", 200),
            ("evil.example", 403), ("cams.example.evil", 403),
        ):  # fmt: skip
            answer = requests.get(
                f"http://127.0.0.1:{port}/cameras/", headers={"host": host}, timeout=30
            )
            assert answer.status_code == status, host


def test_many_people_behind_one_proxy_are_told_apart(tmp_path: Path) -> None:
    with (
        serving(token=TOKEN, trusted_proxies=("127.0.0.1",)) as server,
        nginx(tmp_path, server.port) as port,
    ):
        url = f"http://127.0.0.1:{port}/cameras/login"
        guesser = client()
        for _ in range(12):
            answer = guesser.post(url, data={"token": "x" * 12}, timeout=30)
        assert answer.status_code == 429
        right = requests.post(url, data={"token": TOKEN}, allow_redirects=False, timeout=30)
        assert right.status_code == 303


def test_a_proxy_without_a_token_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with serving(trusted_proxies=("127.0.0.1",)):
        wait_for(lambda: "has no token" in caplog.text, "the warning")
