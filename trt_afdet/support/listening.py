"""Addresses that the web page and the metrics listen on."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket

from trt_afdet.errors import InvalidValueError, RunError

#: Names under which a browser on the same machine asks.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

_ADDRESS = re.compile(r"(?:(?P<host>[\w.-]+|\[[0-9a-fA-F:.%]+\]):)?(?P<port>\d{1,5})")


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT`` (on this machine only); port 0 is a free one."""
    match = _ADDRESS.fullmatch(address.strip())
    if match is None or int(match["port"]) > 65535:
        what, hint = "the web page's address must be HOST:PORT", "e.g. 127.0.0.1:8080"
        raise InvalidValueError(what, got=address, hint=hint)
    return (match["host"] or "127.0.0.1").strip("[]"), int(match["port"])


def bind(host: str, port: int, what: str = "the web page") -> socket.socket:
    """A listening socket; ``what`` is to listen on it, for the errors.

    Raises InvalidValueError for an unknown host, RunError if the port is taken or not allowed.
    """
    kind, passive = socket.SOCK_STREAM, socket.AI_PASSIVE
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=kind, flags=passive)[0]
    except (OSError, UnicodeError) as error:
        raise InvalidValueError(f"{what}: the host is unknown", got=host) from error
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(place, family=family, backlog=128, dualstack_ipv6=both)
    except OSError as error:
        hint = {
            errno.EADDRINUSE: "another program uses this port; choose another, or 0 for a free one",
            errno.EACCES: "ports below 1024 need a privilege; choose one above",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0)
        got = f"{host}:{port}: {os.strerror(error.errno or 0)}"
        raise RunError(f"{what} cannot listen", got=got, hint=hint) from error
    listener.setblocking(False)
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def outward_host(host: str) -> str:
    """How others reach a host that is bound to: for "all addresses", this machine's own."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Sends nothing; only asks the routing table.
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
