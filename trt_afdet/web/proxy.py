"""Who asks, and for what, when a proxy stands in front of the page.

A proxy tells it in ``X-Forwarded-For``, ``-Proto``, ``-Host``, ``-Port`` and ``-Prefix``, or in
``Forwarded`` (RFC 7239). Anybody can send these headers, so they count only in requests that come
from a proxy that was named; in all others they are ignored.

uvicorn's ProxyHeadersMiddleware knows neither host, port, prefix nor ``Forwarded``, and Starlette's
TrustedHostMiddleware sees the ``Host`` header only: with them the check of the origin and the path
of the cookie would be wrong behind a proxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from trt_afdet.errors import InvalidValueError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS = {"http": 80, "https": 443}
#: Most proxies that a request may have passed.
MOST_HOPS = 32

_HOST = re.compile(r"(?P<name>[\w.-]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?")
_PREFIX = re.compile(r"(?:/[\w.~%!$&'()*+,;=:@-]+)*/?")
_PAIR = re.compile(r'\s*([\w!#$%&\'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')


class ForwardedError(ValueError):
    """A proxy's headers that cannot be understood, or contradict each other."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for, as the browser sees it.

    Attributes:
        client: Address of who asks, without the port.
        host: Of the page, as :func:`parse_host` gives it; None if it is malformed.
        port: Of the page, if it is said.
        scheme: "http" or "https"; None if nobody says.
        prefix: What stands before the page's own paths, "" or such as ``/cameras``.
        stripped: Whether the proxy has taken the prefix away.
    """

    client: str
    host: str | None
    port: int | None = None
    scheme: str | None = None
    prefix: str = ""
    stripped: bool = False

    def is_origin(self, origin: str) -> bool:
        """Whether an ``Origin`` header names this page: scheme, host and port.

        Default ports may be left out. A scheme that nobody says is the origin's: a proxy may speak
        TLS and be no named one.
        """
        try:
            parts = urlsplit(origin)
            port = parts.port
        except ValueError:
            return False
        scheme = parts.scheme.lower()
        if scheme not in DEFAULT_PORTS or self.host is None or self.scheme not in (None, scheme):
            return False
        host, _ = parse_host(parts.netloc)
        default = DEFAULT_PORTS[scheme]
        return (host, port or default) == (self.host, self.port or default)


def parse_host(text: str) -> tuple[str | None, int | None]:
    """The name and port in a ``Host`` header: name in lower case, IPv6 in brackets and short.

    Returns:
        None for the name if it is malformed.
    """
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
    return (name[:-1] if name.endswith(".") and len(name) > 1 else name), port


def check_prefix(text: str) -> str:
    """A prefix as it is used: "" or ``/such/as/this``.

    Raises:
        InvalidValueError: If it is no path.
    """
    path = text.strip()
    if not _PREFIX.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise InvalidValueError(
            "the path in front of the web page must be like /cameras", got=text[:80]
        )
    return path.rstrip("/")


def parse_networks(names: Sequence[str]) -> tuple[Network, ...]:
    """``127.0.0.1``, ``10.0.0.0/8``, ``::1`` as networks; ``localhost`` is both of this machine.

    Raises:
        InvalidValueError: If one is none of these.
    """
    networks: list[Network] = []
    for name in names:
        for text in ("127.0.0.0/8", "::1") if name.lower() == "localhost" else (name,):
            try:
                networks.append(ipaddress.ip_network(text.strip("[] "), strict=False))
            except ValueError as error:
                raise InvalidValueError(
                    "a trusted proxy is an address or a network",
                    got=name,
                    hint="such as 127.0.0.1 or 10.0.0.0/8",
                ) from error
    return tuple(networks)


class Forwarding:
    """Reads what proxies say.

    Args:
        proxies: Addresses and networks of those that are believed.
        prefix: What stands before the page's paths if no proxy says.

    Raises:
        InvalidValueError: If one of them is malformed.
    """

    def __init__(self, proxies: Sequence[str] = (), prefix: str = "") -> None:
        self._networks = parse_networks(proxies)
        self._prefix = check_prefix(prefix)

    @property
    def trusts_anyone(self) -> bool:
        """Whether a proxy is named."""
        return bool(self._networks)

    def read(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> Asked:
        """What a request asks for.

        Args:
            peer: Address it comes from.
            headers: Names in lower case, and values.

        Raises:
            ForwardedError: If a named proxy's headers cannot be understood.
        """
        values: dict[str, list[str]] = {}
        for name, value in headers:
            values.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        # Two Host headers are joined to nonsense.
        host, port = parse_host(", ".join(values.get("host", [])))
        asked = Asked(peer, host, port, None, self._prefix)
        if not self._trusts(peer):
            return asked
        told = _from_x_forwarded(values)
        standard = _from_forwarded(", ".join(values.get("forwarded", [])))
        by_x = self._resolve(asked, told) if told else None
        by_standard = self._resolve(asked, standard) if standard else None
        # A proxy sets one kind and may pass on the other as a client has sent it.
        if by_x is not None and by_standard is not None and by_x != by_standard:
            raise ForwardedError("Forwarded and X-Forwarded-* contradict each other")
        asked = by_x or by_standard or asked
        if prefixes := values.get("x-forwarded-prefix"):
            try:
                prefix = check_prefix(prefixes[-1].split(",")[-1])
            except InvalidValueError as error:
                raise ForwardedError("X-Forwarded-Prefix is no path") from error
            asked = replace(asked, prefix=prefix, stripped=True)
        return asked

    def _trusts(self, address: str) -> bool:
        known = _address(address)
        return known is not None and any(known in network for network in self._networks)

    def _resolve(self, asked: Asked, hops: list[dict[str, str]]) -> Asked:
        """The last hop that no named proxy vouches for says who asked, the hop's words for what."""
        chosen = hops[-1]
        for hop in reversed(hops):
            chosen = hop
            if not self._trusts(_without_port(hop.get("for", ""))):
                break
        client = chosen.get("for")
        if client is not None:
            asked = replace(asked, client=_without_port(client)[:64])
        if "proto" in chosen:
            scheme = {"ws": "http", "wss": "https"}.get(chosen["proto"], chosen["proto"]).lower()
            if scheme not in DEFAULT_PORTS:
                raise ForwardedError("the proxy names an unknown scheme")
            asked = replace(asked, scheme=scheme)
        if "host" in chosen:
            host, port = parse_host(chosen["host"])
            asked = replace(asked, host=host, port=port)
        if "port" in chosen:
            if not re.fullmatch(r"[1-9]\d{0,4}", chosen["port"]) or int(chosen["port"]) > 65535:
                raise ForwardedError("X-Forwarded-Port is no port")
            asked = replace(asked, port=asked.port or int(chosen["port"]))
        return asked


def _from_x_forwarded(values: dict[str, list[str]]) -> list[dict[str, str]]:
    """A dict per hop, the nearest last, as in ``Forwarded``."""
    lists: dict[str, list[str]] = {}
    for key in ("for", "proto", "host", "port"):
        text = ",".join(values.get(f"x-forwarded-{key}", []))
        if text.strip():
            lists[key] = [item.strip() for item in text.split(",")][-MOST_HOPS:]
    if not lists:
        return []
    hops: list[dict[str, str]] = [{} for _ in range(max(1, len(lists.get("for", []))))]
    for key, items in lists.items():
        for index, hop in enumerate(reversed(hops)):
            # A proxy that replaces what was there, and does not append, speaks for all.
            item = items[-1 - index] if len(items) == len(hops) else items[-1]
            hop[key] = item
    return hops


def _from_forwarded(text: str) -> list[dict[str, str]]:
    """The elements of RFC 7239's header, the nearest proxy's last."""
    hops: list[dict[str, str]] = []
    place = 0
    hop: dict[str, str] = {}
    while place < len(text):
        match = _PAIR.match(text, place)
        if match is not None:
            key = match[1].lower()
            value = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            if key in hop:
                raise ForwardedError("Forwarded says a thing twice")
            if key in ("for", "proto", "host"):
                hop[key] = value
            place = match.end()
        if place == len(text):
            break
        if text[place] not in ";," + " \t":
            raise ForwardedError("Forwarded cannot be understood")
        if text[place] == ",":
            hops.append(hop)
            hop = {}
        place += 1
    if text.strip():
        hops.append(hop)
    return hops[-MOST_HOPS:]


def _without_port(text: str) -> str:
    """``1.2.3.4:80``, ``[::1]:80`` or ``unknown`` without the port."""
    text = text.strip().strip('"')
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
