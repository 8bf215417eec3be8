"""What the outside world calls a source: its name, without anything that opens a door."""

from __future__ import annotations

import re
import threading

_USER = re.compile(r"(?<=//)[^/\s]*@")
_SECRET = re.compile(
    r"([\w-]*(?:pass|pwd|pw|token|secret|key|auth|user)[\w-]*\s*[=:]\s*)(?!//)[^&\s;,]+",
    re.IGNORECASE,
)
LONGEST = 200


def redact(text: str) -> str:
    """A text with the users, passwords and tokens of the addresses in it replaced by ``***``."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


class PublicNames:
    """Gives every source one public name, and finds the source of one again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._public: dict[str, str] = {}
        self._source: dict[str, str] = {}

    def of(self, source: str) -> str:
        """The public name; two sources never share one."""
        with self._lock:
            known = self._public.get(source)
            if known is not None:
                return known
            base = redact(source)[:LONGEST]
            public, number = base, 2
            while public in self._source:
                public, number = f"{base} ({number})", number + 1
            self._public[source] = public
            self._source[public] = source
            return public

    def source(self, public: str) -> str | None:
        """The source behind a public name."""
        with self._lock:
            return self._source.get(public)
