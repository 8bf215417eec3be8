"""Where the page listens, and under which names it may be asked for."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket

from trt_afdet.errors import InvalidValueError, RunError

#: Names under which a browser on the same machine asks.
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

_ADDRESS = re.compile(r"(?:(?P<host>[\w.-]+|\[[0-9a-fA-F:.%]+\]):)?(?P<port>\d{1,5})")


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT`` (on this machine only); port 0 takes a free one.

    Raises:
        InvalidValueError: If it is none of these.
    """
    match = _ADDRESS.fullmatch(address.strip())
    if match is None or int(match["port"]) > 65535:
        raise InvalidValueError(
            "the web page's address must be HOST:PORT", got=address, hint="e.g. 127.0.0.1:8080"
        )
    return (match["host"] or "127.0.0.1").strip("[]"), int(match["port"])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InvalidValueError: If there is no such host.
        RunError: If the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InvalidValueError("the web page's host is unknown", got=host) from error
    listener = socket.socket(family, kind, protocol)
    try:
        # A port in TIME_WAIT after a restart is free; one that is listened on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = {
            errno.EADDRINUSE: "another program uses this port; choose another, or 0 for a free one",
            errno.EACCES: "ports below 1024 need a privilege; choose one above",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(error.errno or 0)
        raise RunError(
            "the web page cannot listen", got=f"{host}:{port}: {error.strerror}", hint=hint
        ) from error
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
