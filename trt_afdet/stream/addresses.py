"""The grammar of addresses, and their public form.

``SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY][#OPTIONS]``. The query of a camera belongs
to the camera, so its options follow a ``#``, which is never sent. All other addresses hold their
options in the query: ``name=value`` pairs, separated by ``&``. ``%XX`` is decoded; every other
character, also ``+``, ``@`` and ``#``, means itself. Users see only :attr:`Address.shown` or what
:func:`~trt_afdet.support.redact.redact` leaves; errors of this module only the scheme.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.redact import redact

ENCODE = "in a user or password write @ as %40, : as %3A, / as %2F, # as %23, ? as %3F, % as %25"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]*)(?::(\d{1,5}))?")
_OPTIONS = re.compile(r"[A-Za-z_]\w*=")
# Characters that a path or query keeps; all others become %XX.
_PLAIN = "/?#[]@!$&'()*+,;=:%~{}|"


@dataclass(frozen=True)
class Address:
    """A network address in its parts.

    Attributes:
        scheme: In lower case.
        host: Without the brackets of IPv6.
        port: None if the address does not name one.
        user, password: Decoded; None if the address does not name them.
        path: As written, with its leading ``/``.
        query, fragment: As written, without the ``?`` and the ``#``.
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
        """The address without credentials and options, for messages."""
        query = f"?{self.query}" if self.query else ""
        return redact(f"{self.scheme}://{self.place}{self.path}{query}")

    @property
    def target(self) -> str:
        """Path and query, encoded."""
        query = f"?{quote(self.query, safe=_PLAIN)}" if self.query else ""
        return quote(self.path, safe=_PLAIN) + query

    def url(self, scheme: str | None = None) -> str:
        """The encoded address with credentials, for libraries; ``scheme`` replaces its own."""
        who = quote(self.user or "", safe="")
        if self.password is not None:
            who += f":{quote(self.password, safe='')}"
        if self.user is not None or self.password is not None:
            who += "@"
        return f"{scheme or self.scheme}://{who}{self.place}{self.target}"


def scheme_of(text: str) -> str | None:
    """The scheme of ``SCHEME://...`` in lower case, or None."""
    match = _SCHEME.match(text)
    return None if match is None else match[1].lower()


def parse_address(text: str) -> Address:
    """Reads ``SCHEME://...`` with a host; an InvalidValueError shows only the scheme."""
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
        # The error does not show the text: the port may be half a password.
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
