"""Checks every request before the page sees it, and adds the security headers to every answer.

Starlette's middlewares cannot do this: TrustedHostMiddleware judges the ``Host`` header, not the
host that a trusted proxy forwards; CORSMiddleware adds headers to requests of other sites and does
not refuse them; its limit of bodies is missing in the oldest Starlette that is supported.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from trt_afdet.web.access import Access
from trt_afdet.web.proxy import BrowserRequest, ForwardedError, Forwarding

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("trt_afdet.web")

LONGEST_BODY = 1 << 18  # Bytes; the zones of a camera fit in many times.

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not "no-referrer": browsers then send forms with "Origin: null", as a foreign site would.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    # A proxy that collects answers before it passes them on would make pictures late.
    "x-accel-buffering": "no",
}
_SAFE_METHODS = ("GET", "HEAD")
#: How the page's own paths begin.
OWN = ("/api", "/static", "/login", "/healthz", "/metrics", "/ws", "/favicon.ico")
#: Paths that need no token, and all of ``/static/``.
PUBLIC = ("/login", "/healthz", "/favicon.ico")
#: Status, text, and headers if there are any.
Refusal = tuple[int, str] | tuple[int, str, dict[str, str]]


class Guard:
    """An ASGI application around the page's own.

    It may be asked for under the names ``hosts``, lower case; None allows all. A foreign site that
    has its own name resolve to this machine asks under that name, so it is refused.
    """

    def __init__(
        self, app: ASGIApp, access: Access, hosts: frozenset[str] | None, forwarding: Forwarding
    ) -> None:
        self._app, self._access, self._hosts, self._forwarding = app, access, hosts, forwarding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect

        if scope["type"] not in ("http", "websocket"):
            return
        begun, received = False, 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LONGEST_BODY:
                raise HTTPException(413, f"at most {LONGEST_BODY} bytes", {"connection": "close"})
            return message

        async def with_headers(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] in ("http.response.start", "websocket.accept")
            if message["type"] == "http.response.start":
                # A file may be kept, but must be checked before it is used again.
                own = list(message.get("headers", ()))
                keep = "no-cache" if any(name == b"etag" for name, _ in own) else "no-store"
                extra = {**HEADERS, "cache-control": keep}.items()
                message["headers"] = own + [(k.encode(), v.encode()) for k, v in extra]
            await send(message)

        try:
            refusal = self._check(scope)
            if refusal is None:
                await self._app(scope, limited, with_headers)
                return
            if scope["type"] == "http" and refusal[0] != 413:
                # Closing the connection before the body has arrived would lose the answer.
                with suppress(HTTPException):
                    while (await limited()).get("more_body"):
                        pass
        except ClientDisconnect:
            return
        except Exception:
            log.exception("the web page failed at %s", quote(scope["path"]))
            refusal = 500, "the page has failed; its log says why"
        if not begun:
            await _refuse(scope, receive, with_headers, *refusal)

    def _check(self, scope: Scope) -> Refusal | None:
        from starlette.datastructures import Headers

        headers = Headers(scope=scope)
        scope["signed_in"] = not self._access.required
        peer = (scope.get("client") or ("",))[0]
        try:
            request = self._forwarding.read(peer, scope["headers"])
        except ForwardedError as error:
            return 400, f"the proxy's headers are wrong: {error}"
        scope["browser_request"] = request
        scope["client"] = (request.client, 0)
        if (place := _strip_prefix(scope, request)) is not None:
            return 308, place, {"location": place}
        if request.host is None or (self._hosts is not None and request.host not in self._hosts):
            return 403, "this page is not served under that host name; web: hosts: allows names"
        writes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        origin = _only(headers, "origin")
        if writes and origin is not None and not request.is_origin(origin):
            return 403, (
                "requests from other sites are not answered; a proxy must pass on the browser's "
                "Host with its port"
            )
        length = _only(headers, "content-length")
        if length is not None and (not length.isdecimal() or int(length) > LONGEST_BODY):
            return 413, f"at most {LONGEST_BODY} bytes"
        return self._sign_in(scope, headers, request) if self._access.required else None

    def _sign_in(self, scope: Scope, headers: Headers, request: BrowserRequest) -> Refusal | None:
        scope["signed_in"] = self._access.cookie_is_right(_only(headers, "cookie") or "")
        token = _token(scope, headers)
        if token is not None and not scope["signed_in"]:
            if self._access.blocked(request.client):
                return 429, "too many wrong tokens; wait a minute"
            if not self._access.token_is_right(token):
                self._access.note_wrong(request.client)
                return 401, "the token is wrong"
            scope["signed_in"] = True
        if token is not None and scope["type"] == "http" and b"token=" in scope["query_string"]:
            # So that it stays neither in the address bar nor in the history. Relative: it holds
            # behind every prefix, and whatever the path is, the place stays on this host.
            place = "./" + quote(scope["path"].rpartition("/")[2])
            return 303, place, {"location": place, "set-cookie": new_cookie(self._access, request)}
        path = scope["path"]
        if scope["signed_in"] or path in PUBLIC or path.startswith("/static/"):
            return None
        if path == "/" and scope["type"] == "http":
            return 303, "login", {"location": "login"}
        return 401, "sign in first: open / in a browser, or send Authorization: Bearer TOKEN"


def new_cookie(access: Access, request: BrowserRequest) -> str:
    return access.new_cookie(f"{request.prefix}/", secure=request.scheme == "https")


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, what: str, more: Any = ()
) -> None:
    from starlette.responses import JSONResponse, Response
    from starlette.websockets import WebSocketClose

    # The rest of a body that is too long is not read.
    headers = {"connection": "close", **dict(more)}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    answer: ASGIApp = Response(status_code=status, headers=headers)
    if scope["type"] == "websocket":
        answer = WebSocketClose(1008)  # Before it was accepted this becomes a plain 403.
    elif status >= 400:
        answer = JSONResponse({"error": what}, status, headers)
    await answer(scope, receive, send)


def _strip_prefix(scope: Scope, request: BrowserRequest) -> str | None:
    """Removes a prefix left by the proxy; returns where to redirect a request without its slash."""
    path, prefix = scope["path"], request.prefix
    inside = f"{prefix}/"
    # A page below /api, of which the proxy has stripped that, still has its own /api.
    if not prefix or (request.stripped and f"/{prefix.split('/')[1]}" in OWN):
        return None
    if path == prefix and scope["type"] == "http":
        return quote(inside)
    if path.startswith(inside):
        scope["path"] = path[len(prefix) :]
        scope["raw_path"] = quote(scope["path"]).encode()
    return None


def _token(scope: Scope, headers: Headers) -> str | None:
    kind, _, token = (_only(headers, "authorization") or "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
        query = scope["query_string"].decode("latin-1")
        return next(iter(parse_qs(query, max_num_fields=64).get("token", [])), None)
    return None


def _only(headers: Headers, name: str) -> str | None:
    """The value of a header; None if it is missing, nonsense if it is there twice."""
    values = headers.getlist(name)
    return ", ".join(values) if values else None
