"""Keeps credentials out of whatever people and files get to see."""

from __future__ import annotations

import re

HIDDEN = "***"  #: Replaces a credential.

# Passwords are often pasted into addresses without being encoded, with "/", "?" or quotes in them,
# so everything up to the last "@" counts as one: hiding a part of a path harms nobody. A further
# "://" begins another address. A password with spaces is known by the colon before it, which no
# port follows. Hints keep their "USER:PASSWORD@", and "udp://@239.0.0.1" has no user.
_USER = re.compile(
    r"""(?<=://)(?!USER:PASSWORD@)
    (?: [^\s/?\#@:'"]*:(?!\d*(?:[/?\#\s,;'")]|$))(?:(?!://|[ ]-[ ])[^\n])*@
      | (?:(?!://)\S)+@ )""",
    re.VERBOSE,
)
# Names of secret options.
_ALWAYS = (
    r"[\w-]*(?:passw|passphrase|pwd|token|secret|credential|api_?-?key)[\w-]*|(?:user-)?p(?:w|ass)"
)
# Names that hold one in the query of an address.
_IN_QUERY = r"[\w-]*(?:key|auth|sig|jwt|session|login|user|usr|account)[\w-]*|sid|sas|access|pin"
_QUERY = re.compile(rf"(?<=[?&;#])((?:{_ALWAYS}|{_IN_QUERY})=)[^&;#\s]+", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""(?<![\w-])((?:{_ALWAYS})['"]?\s*(?:=\s*|:\s*(?=['"])))("[^"]*"|'[^']*'|[^\s&;,#]+)""",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"""((?:proxy-)?authorization['"]?\s*[:=]\s*['"]?(?:basic|bearer|digest)\s+).+?(?=['"]|$)""",
    re.IGNORECASE | re.MULTILINE,
)


def redact(text: str) -> str:
    """A text with ``***`` for users, passwords, tokens and headers, in addresses and elsewhere."""
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return _HEADER.sub(rf"\1{HIDDEN}", text)
