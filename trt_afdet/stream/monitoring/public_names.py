"""What the outside world calls a source: its name, without anything that opens a door."""

from __future__ import annotations

import threading

from trt_afdet.support.redact import redact
from trt_afdet.support.slug import slug

LONGEST = 200

#: A public name for addresses: letters, digits, ``-`` and ``_``; different for every name.
key = slug


class PublicNames:
    """Gives every source one public name, and finds the source of one again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._public: dict[str, str] = {}
        self._source: dict[str, str] = {}
        self._public_of_key: dict[str, str] = {}

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
            self._public_of_key[key(public)] = public
            return public

    def source(self, public: str) -> str | None:
        """The source behind a public name."""
        with self._lock:
            return self._source.get(public)

    def find(self, text: str) -> str | None:
        """The public name that an address means: one of them, or one's :func:`key`.

        Keys pass through every proxy; names with ``//`` or ``..`` in them do not.
        """
        with self._lock:
            if text in self._public_of_key:
                return self._public_of_key[text]
            return text if text in self._source else None
