"""What every request has to pass before the page sees it, and what every answer carries."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, quote

from trt_afdet.web.access import Access
from trt_afdet.web.proxy import Asked, ForwardedError, Forwarding

log = logging.getLogger("trt_afdet.web")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Bytes; the zones of a camera fit in many times.
LONGEST_BODY = 1 << 18

HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    # Not "no-referrer": browsers then send forms with "Origin: null", as a foreign site would.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
    # A proxy that collects answers before it passes them on would make pictures late.
    ("x-accel-buffering", "no"),
)
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS]
_SAFE = ("GET", "HEAD")
#: How the page's own paths begin.
OWN = ("/api", "/static", "/login", "/healthz", "/metrics", "/ws", "/favicon.ico")
#: Status, text, and headers if there are any.
Refusal = tuple[int, str] | tuple[int, str, list[tuple[str, str]]]


class Guard:
    """An ASGI application around the page's own.

    Args:
        app: The page.
        access: Who may see it.
        hosts: Names it may be asked for, lower case; None allows all. A foreign site that has its
            own name resolve to this machine asks under that name, so it is turned away.
        public: Whether a path may be seen without the token.
        forwarding: What proxies are believed.
    """

    def __init__(
        self,
        app: App,
        access: Access,
        hosts: frozenset[str] | None,
        public: Callable[[str], bool],
        forwarding: Forwarding | None = None,
    ) -> None:
        self._forwarding = forwarding or Forwarding()
        self._app = app
        self._access = access
        self._hosts = hosts
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        answer = _Answer(scope, send)
        try:
            refusal = self._check(scope, answer)
            if refusal is not None:
                await answer.refuse(*refusal)
                return
            await self._app(scope, _Limited(scope, receive), answer)
        except _TooLongError:
            await answer.refuse(413, f"at most {LONGEST_BODY} bytes")
        except Exception:
            log.exception("the web page failed at %s", quote(scope["path"]))
            await answer.refuse(500, "the page has failed; its log says why")

    def _check(self, scope: Scope, answer: _Answer) -> Refusal | None:
        headers = _Headers(scope)
        scope["signed_in"] = not self._access.required
        peer = (scope.get("client") or ("",))[0]
        try:
            asked = self._forwarding.read(peer, scope["headers"])
        except ForwardedError as error:
            return 400, f"the proxy's headers are wrong: {error}"
        scope["asked"] = asked
        scope["client"] = (asked.client, 0)
        if (place := _strip_prefix(scope, asked)) is not None:
            return 308, place, [("location", place)]
        if asked.host is None or (self._hosts is not None and asked.host not in self._hosts):
            return 403, "this page is not served under that host name; web: hosts: allows names"
        acts = scope["type"] == "websocket" or scope["method"] not in _SAFE
        origin = headers.only("origin")
        if acts and origin is not None and not asked.is_origin(origin):
            return 403, (
                "requests from other sites are not answered; a proxy must pass on the browser's "
                "Host with its port"
            )
        length = headers.only("content-length")
        if length is not None and (not length.isdecimal() or int(length) > LONGEST_BODY):
            return 413, f"at most {LONGEST_BODY} bytes"
        if not self._access.required:
            return None
        return self._sign_in(scope, headers, asked)

    def _sign_in(self, scope: Scope, headers: _Headers, asked: Asked) -> Refusal | None:
        if self._access.cookie_is_right(headers.only("cookie") or ""):
            scope["signed_in"] = True
        token = self._token(scope, headers)
        if token is not None and not scope["signed_in"]:
            if self._access.blocked(asked.client):
                return 429, "too many wrong tokens; wait a minute"
            if not self._access.token_is_right(token):
                self._access.note_wrong(asked.client)
                return 401, "the token is wrong"
            scope["signed_in"] = True
        if token is not None and scope["type"] == "http" and b"token=" in scope["query_string"]:
            # So that it stays neither in the address bar nor in the history. Relative: it holds
            # behind every prefix, and whatever the path is, the place stays on this host.
            place = "./" + quote(scope["path"].rpartition("/")[2])
            return (
                303,
                place,
                [("location", place), ("set-cookie", new_cookie(self._access, asked))],
            )
        if scope["signed_in"] or self._public(scope["path"]):
            return None
        if scope["path"] == "/" and scope["type"] == "http":
            return 303, "login", [("location", "login")]
        return 401, "sign in first: open / in a browser, or send Authorization: Bearer TOKEN"

    def _token(self, scope: Scope, headers: _Headers) -> str | None:
        kind, _, token = (headers.only("authorization") or "").partition(" ")
        if kind.lower() == "bearer":
            return token.strip()
        if scope["type"] == "http" and scope["method"] in _SAFE:
            query = scope["query_string"].decode("latin-1")
            return next(iter(parse_qs(query, max_num_fields=64).get("token", [])), None)
        return None


def new_cookie(access: Access, asked: Asked) -> str:
    """``Set-Cookie`` for one who has shown the token."""
    return access.new_cookie(f"{asked.prefix}/", secure=asked.scheme == "https")


def _strip_prefix(scope: Scope, asked: Asked) -> str | None:
    """Takes a prefix that the proxy has left off the path.

    Returns:
        Where to redirect a request for the prefix without its slash: relative addresses need it.
    """
    path, prefix = scope["path"], asked.prefix
    inside = f"{prefix}/"
    # A page below /api, of which the proxy has stripped that, still has its own /api.
    if not prefix or (asked.stripped and f"/{prefix.split('/')[1]}" in OWN):
        return None
    if path == prefix and scope["type"] == "http":
        return quote(inside)
    if path.startswith(inside):
        scope["path"] = path[len(prefix) :]
        scope["raw_path"] = quote(scope["path"]).encode()
    return None


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._pairs = scope["headers"]

    def only(self, name: str) -> str | None:
        """The value of a header; None if it is missing, nonsense if it is there twice."""
        values = [v.decode("latin-1") for k, v in self._pairs if k.decode("latin-1") == name]
        return ", ".join(values) if values else None


class _TooLongError(Exception):
    pass


class _Limited:
    """Receives no more than a body may have."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._left = LONGEST_BODY if scope["type"] == "http" else None
        self._receive = receive

    async def __call__(self) -> Message:
        message = await self._receive()
        if self._left is not None:
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise _TooLongError
        return message


class _Answer:
    """Sends, with the headers that every answer carries."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            self._begun = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await self._send(message)

    async def refuse(
        self, status: int, what: str, headers: list[tuple[str, str]] | None = None
    ) -> None:
        """An answer in place of the page's, unless that has begun."""
        if self._begun:
            return
        if self._scope["type"] == "websocket":
            # Before it was accepted this becomes a plain 403.
            await self._send({"type": "websocket.close", "code": 1008})
            return
        body = json.dumps({"error": what}).encode() if status >= 400 else b""
        lines = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            # What is left of a body that was refused is not read.
            ("connection", "close"),
            *(headers or ()),
        ]
        if status == 401:
            lines.append(("www-authenticate", "Bearer"))
        pairs = [(name.encode(), value.encode()) for name, value in lines]
        await self({"type": "http.response.start", "status": status, "headers": pairs})
        await self._send({"type": "http.response.body", "body": body})
