"""Addresses of sources and sinks: how they are read, which there are, and how they are shown.

``SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY][#OPTIONS]``. Where the query belongs to the
peer (cameras), options stand behind a ``#``, which is never sent; everywhere else in the query.
Options are ``name=value`` with ``&`` between them; ``%XX`` is decoded and every other character,
``+``, ``@`` and ``#`` included, means itself.

What a person gets to see of an address is :attr:`Address.shown` or went through
:func:`~trt_afdet.support.redact.redact`. Errors of this module hold nothing of an address but its
scheme.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.redact import redact
from trt_afdet.support.suggest import nearest

#: Schemes of sources, by where their options stand.
SOURCE_QUERY = ("v4l2", "csi", "file", "gst", "test")
SOURCE_FRAGMENT = (
    "rtsp", "rtsps", "http", "https", "udp", "rtp", "srt", "rtmp", "rtmps", "tcp",
)  # fmt: skip
SOURCE_SCHEMES = (*SOURCE_QUERY, *SOURCE_FRAGMENT)
#: Schemes of sinks, with how each is written.
SINK_FORMS = {
    "video": "video:FOLDER",
    "jsonl": "jsonl:FILE",
    "csv": "csv:FILE",
    "mqtt": "mqtt://HOST/TOPIC",
    "mqtts": "mqtts://HOST/TOPIC",
    "redis": "redis://HOST/STREAM",
    "rediss": "rediss://HOST/STREAM",
    "webhook+http": "webhook+http://HOST/PATH",
    "webhook+https": "webhook+https://HOST/PATH",
    "mjpeg": "mjpeg://HOST:PORT",
    "rtsp": "rtsp://HOST/PATH",
    "window": "window:",
}

ENCODE = "in a user or password write @ as %40, : as %3A, / as %2F, # as %23, ? as %3F, % as %25"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]*)(?::(\d{1,5}))?")
_OPTIONS = re.compile(r"[A-Za-z_]\w*=")
# What may stand in a path or query as it is; everything else is written as %XX.
_PLAIN = "/?#[]@!$&'()*+,;=:%~{}|"


@dataclass(frozen=True)
class Address:
    """A network address in its parts.

    Attributes:
        scheme: In small letters.
        host: Without the brackets of IPv6.
        port: None if it is not given.
        user, password: Decoded; None if not given.
        path: As written, from its ``/`` on.
        query: As written, without the ``?``.
        fragment: As written, without the ``#``.
    """

    scheme: str
    host: str
    port: int | None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    path: str = field(default="", repr=False)
    query: str = field(default="", repr=False)
    fragment: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """``HOST[:PORT]``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The address without credentials and options, for people."""
        query = f"?{self.query}" if self.query else ""
        return redact(f"{self.scheme}://{self.place}{self.path}{query}")

    def url(self, scheme: str | None = None) -> str:
        """The address for a library, credentials included, every character encoded as it must be.

        Args:
            scheme: Instead of its own.
        """
        who = ""
        if self.user is not None or self.password is not None:
            who = quote(self.user or "", safe="")
            if self.password is not None:
                who += f":{quote(self.password, safe='')}"
            who += "@"
        query = f"?{quote(self.query, safe=_PLAIN)}" if self.query else ""
        path = quote(self.path, safe=_PLAIN)
        return f"{scheme or self.scheme}://{who}{self.place}{path}{query}"


def scheme_of(text: str) -> str | None:
    """The scheme of ``SCHEME://...`` in small letters, or None."""
    match = _SCHEME.match(text)
    return None if match is None else match[1].lower()


def unknown_scheme(what: str, name: str, known: Iterable[str]) -> InvalidValueError:
    """The error for a scheme that there is none of."""
    known = tuple(known)
    # What stands before a colon may be half a password.
    got = f"{name}://" if re.fullmatch(r"[a-z][a-z0-9+.-]{0,19}", name) else None
    hint = nearest(name, known) or f"one of {', '.join(known)}"
    return InvalidValueError(f"unknown kind of {what}", got=got, hint=hint)


def parse_address(text: str) -> Address:
    """Reads ``SCHEME://...`` with a host.

    Raises:
        InvalidValueError: If it cannot be one; nothing of it is in the text but the scheme.
    """
    match = _SCHEME.match(text)
    if match is None:
        raise InvalidValueError("an address begins with SCHEME://")
    scheme = match[1].lower()
    rest = text[match.end() :]
    if not rest.isprintable() or " " in rest:
        raise InvalidValueError(
            f"{scheme}:// address with a space or an invisible character",
            hint="write a space as %20, others as %XX",
        )
    cut = min((i for c in "/?#" if (i := rest.find(c)) >= 0), default=len(rest))
    authority, tail = rest[:cut], rest[cut:]
    who, at, place = authority.rpartition("@")
    before, _, fragment = tail.partition("#")
    path, _, query = before.partition("?")
    found = _HOST.fullmatch(place)
    if found is None or int(found[2] or 0) > 65535:
        # Without the text: what looks like a port may be half a password.
        raise InvalidValueError(f"{scheme}:// address that cannot be read", hint=ENCODE)
    if not at and "@" in fragment and not _OPTIONS.match(fragment):
        raise InvalidValueError(f"{scheme}:// address whose password has a '#'", hint=ENCODE)
    user, colon, password = who.partition(":")
    return Address(
        scheme,
        found[1].strip("[]"),
        None if found[2] is None else int(found[2]),
        unquote(user) if who else None,
        unquote(password) if colon else None,
        path,
        query,
        fragment,
    )


def split_options(text: str) -> list[tuple[str, str]]:
    """``name=value&...`` as pairs, decoded; ``+`` is a plus.

    Raises:
        InvalidValueError: If one has no ``=``.
    """
    pairs = [part.partition("=") for part in text.split("&") if part]
    if not all(equals for _, equals, _ in pairs):
        # Without it: it may be the rest of a password.
        raise InvalidValueError("an option has no '='", hint="in a value write & as %26")
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


def join_options(values: Mapping[str, object]) -> str:
    """The opposite of :func:`split_options`; yes and no for booleans."""
    return "&".join(
        f"{quote(name, safe='')}={quote(text_of(value), safe='')}" for name, value in values.items()
    )


def text_of(value: object) -> str:
    """A value of an option, as it stands in an address."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


# ---- What values of options may be.

_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH |= {"0": False, "false": False, "no": False, "off": False}
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_TIMES = {
    "": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


def read_truth(value: object) -> bool:
    """``yes`` ``no`` ``on`` ``off`` ``true`` ``false`` ``1`` ``0``.

    Raises:
        InvalidValueError: If it is none of these.
    """
    truth = _TRUTH.get(str(value).strip().lower())
    if truth is None:
        raise InvalidValueError("must be yes or no", got=value)
    return truth


def read_whole(value: object) -> int:
    """A whole number.

    Raises:
        InvalidValueError: If it is none.
    """
    text = str(value).strip()
    # "3.0" is how YAML and JSON may write it.
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}(\.0+)?", text, re.ASCII):
        raise InvalidValueError("must be a whole number", got=value)
    return int(text.partition(".")[0])


def read_number(value: object) -> float:
    """A number.

    Raises:
        InvalidValueError: If it is none, or not finite.
    """
    try:
        text = str(value)
        number = float(text) if text.isascii() and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValueError("must be a number like 12.5", got=value)
    return number


def read_seconds(value: object) -> float:
    """``10min``, ``1.5h``, ``250ms`` or a number of seconds, as seconds.

    Raises:
        InvalidValueError: If it is none of these.
    """
    return _quantity(value, _TIMES, "10min")


def read_size(value: object) -> int:
    """``2GB``, ``500 MiB`` or a number of bytes, as bytes.

    Raises:
        InvalidValueError: If it is none of these.
    """
    return int(_quantity(value, _SIZES, "2GB"))


def _quantity(value: object, units: Mapping[str, float], example: str) -> float:
    match = None if isinstance(value, bool) else _QUANTITY.fullmatch(str(value).strip())
    amount = math.inf
    if match is not None and match[2].lower() in units:
        amount = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(amount):
        known = ", ".join(unit for unit in units if unit)
        raise InvalidValueError(
            f"must be a number like {example}", got=value, hint=f"units: {known}"
        )
    return amount
