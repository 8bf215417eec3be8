"""Finds the sender and the address of a request behind a proxy.

A proxy tells it in ``X-Forwarded-For``, ``-Proto``, ``-Host``, ``-Port`` and ``-Prefix``, or in
``Forwarded`` (RFC 7239). Anybody can send these headers, so they count only in requests that come
from a trusted proxy; in all others they are ignored.

uvicorn's ProxyHeadersMiddleware reads ``-For`` and ``-Proto`` only, and takes malformed networks as
names; Starlette's TrustedHostMiddleware sees the ``Host`` header only. With them the check of the
origin and the path of the cookie would be wrong behind a proxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from trt_afdet.errors import InvalidValueError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_HOPS = 32  # Most proxies that a request may have passed.

_HOST = re.compile(r"(?P<name>[\w.-]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?")
_PREFIX = re.compile(r"(?:/[\w.~%!$&'()*+,;=:@-]+)*/?")
# A pair of ``Forwarded``, or nothing, and what ends it.
_PAIR = re.compile(
    r'\s*(?:([\w!#$%&\'*+.^`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*)?([;,]|\Z)'
)


class ForwardedError(ValueError):
    """A proxy's headers that cannot be understood, or contradict each other."""


class BrowserRequest(NamedTuple):
    """A request's addresses as the browser sees them, before any proxy changed them."""

    client: str  # Address of the browser, without the port.
    host: str | None  # Of the page, as parse_host gives it; None if it is malformed.
    port: int | None = None  # Of the page; None if not known.
    scheme: str | None = None  # "http" or "https"; None if not known.
    prefix: str = ""  # Path in front of the page's own paths, "" or such as ``/cameras``.
    stripped: bool = False  # Whether the proxy has removed the prefix from the path.

    def is_origin(self, origin: str) -> bool:
        """Whether an ``Origin`` header names this page: scheme, host and port.

        Default ports may be left out. An unknown scheme is taken to be the origin's: a proxy that
        is not trusted may speak TLS.
        """
        try:
            parts = urlsplit(origin)
            default = DEFAULT_PORTS.get(parts.scheme)
            port = parts.port or default
        except ValueError:
            return False
        if default is None or self.host is None or self.scheme not in (None, parts.scheme):
            return False
        return (parse_host(parts.netloc)[0], port) == (self.host, self.port or default)


def parse_host(text: str) -> tuple[str | None, int | None]:
    """Name and port of a ``Host`` header: lower case, IPv6 in brackets; no name if malformed."""
    match = _HOST.fullmatch(text.strip())
    if match is None or int(match["port"] or 0) > 65535:
        return None, None
    name = match["name"].lower()
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
        except ValueError:
            return None, None
    port = int(match["port"]) if match["port"] else None
    return (name.removesuffix(".") or name), port


def check_prefix(text: str) -> str:
    """A prefix as it is used: "" or ``/such/as/this``; InvalidValueError if it is no path."""
    path = text.strip()
    if not _PREFIX.fullmatch(path) or {".", ".."} & set(path.split("/")):
        what = "the path in front of the web page must be like /cameras"
        raise InvalidValueError(what, got=text[:80])
    return path.rstrip("/")


def parse_networks(names: Sequence[str]) -> tuple[Network, ...]:
    """``127.0.0.1``, ``10.0.0.0/8``, ``::1`` as networks; ``localhost`` is both of this machine."""
    networks: list[Network] = []
    for name in names:
        for text in ("127.0.0.0/8", "::1") if name.lower() == "localhost" else (name,):
            try:
                networks.append(ipaddress.ip_network(text.strip("[] "), strict=False))
            except ValueError as error:
                what, hint = "a trusted proxy is an address or a network", "127.0.0.1 or 10.0.0.0/8"
                raise InvalidValueError(what, got=name, hint=f"such as {hint}") from error
    return tuple(networks)


class Forwarding:
    """Reads the headers of trusted proxies, given as addresses and networks.

    ``prefix`` is the path in front of the page's paths if no proxy sends one.
    """

    def __init__(self, proxies: Sequence[str] = (), prefix: str = "") -> None:
        self.networks = parse_networks(proxies)
        self._prefix = check_prefix(prefix)

    def read(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> BrowserRequest:
        """The request from ``peer`` as the browser sees it; ForwardedError if that is not clear."""
        values: dict[str, list[str]] = {}
        for name, value in headers:
            values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        # Two Host headers are joined to a malformed one.
        host, port = parse_host(", ".join(values.get("host", [])))
        direct = BrowserRequest(peer, host, port, None, self._prefix)
        if not self._trusts(peer):
            return direct
        hops = (_from_x_forwarded(values), _from_forwarded(",".join(values.get("forwarded", []))))
        found = {self._resolve(direct, told) for told in hops if told}
        # A proxy sets one kind and may pass on the other as a client has sent it.
        if len(found) > 1:
            raise ForwardedError("Forwarded and X-Forwarded-* contradict each other")
        request = found.pop() if found else direct
        if prefixes := values.get("x-forwarded-prefix"):
            try:
                prefix = check_prefix(prefixes[-1].split(",")[-1])
            except InvalidValueError as error:
                raise ForwardedError("X-Forwarded-Prefix is not a path") from error
            request = request._replace(prefix=prefix, stripped=True)
        return request

    def _trusts(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.networks)

    def _resolve(self, request: BrowserRequest, hops: list[dict[str, str]]) -> BrowserRequest:
        """Reads the last hop that does not come from a trusted proxy."""
        untrusted = (h for h in reversed(hops) if not self._trusts(_without_port(h.get("for", ""))))
        hop = next(untrusted, hops[0])
        client, host, port, scheme, *_ = request
        if "for" in hop:
            client = _without_port(hop["for"])[:64]
        if "proto" in hop:
            scheme = {"ws": "http", "wss": "https"}.get(hop["proto"], hop["proto"]).lower()
            if scheme not in DEFAULT_PORTS:
                raise ForwardedError("the proxy names an unknown scheme")
        if "host" in hop:
            host, port = parse_host(hop["host"])
        if "port" in hop:
            if not re.fullmatch(r"[1-9]\d{0,4}", hop["port"]) or int(hop["port"]) > 65535:
                raise ForwardedError("X-Forwarded-Port is not a port")
            port = port or int(hop["port"])
        return request._replace(client=client, host=host, port=port, scheme=scheme)


def _from_x_forwarded(values: dict[str, list[str]]) -> list[dict[str, str]]:
    """A dict per hop, the nearest last, as in ``Forwarded``."""
    lists: dict[str, list[str]] = {}
    for key in ("for", "proto", "host", "port"):
        text = ",".join(values.get(f"x-forwarded-{key}", []))
        if text.strip():
            lists[key] = [item.strip() for item in text.split(",")][-MAX_HOPS:]
    count = len(lists.get("for", [""])) if lists else 0
    # A proxy that replaces the header, and does not append to it, speaks for all hops.
    return [
        {key: items[index if len(items) == count else -1] for key, items in lists.items()}
        for index in range(count)
    ]


def _from_forwarded(text: str) -> list[dict[str, str]]:
    """The elements of RFC 7239's header, the nearest proxy's last."""
    hops: list[dict[str, str]] = [{}] if text.strip() else []
    place = 0
    while hops:
        match = _PAIR.match(text, place)
        if match is None:
            raise ForwardedError("Forwarded cannot be understood")
        place = match.end()
        key, quoted, plain, end = match.groups()
        if key is not None:
            if key.lower() in hops[-1]:
                raise ForwardedError("Forwarded says a thing twice")
            hops[-1][key.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if end == "":
            break
        if end == ",":
            hops.append({})
    return [{k: v for k, v in h.items() if k in ("for", "proto", "host")} for h in hops[-MAX_HOPS:]]


def _without_port(text: str) -> str:
    """``1.2.3.4:80``, ``[::1]:80`` or ``unknown`` without the port."""
    text = text.strip().strip('"')
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
