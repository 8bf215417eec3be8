"""Removes credentials from names of sources, and finds the source of an address."""

from __future__ import annotations

import threading

from trt_afdet.support.redact import redact
from trt_afdet.support.slug import slug

LONGEST = 200


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
            if source not in self._public:
                base = redact(source)[:LONGEST]
                public, number = base, 2
                while public in self._source:
                    public, number = f"{base} ({number})", number + 1
                self._public[source] = public
                self._source[public] = source
                self._public_of_key[slug(public)] = public
            return self._public[source]

    def source(self, public: str) -> str | None:
        """The source behind a public name."""
        with self._lock:
            return self._source.get(public)

    def find(self, text: str) -> str | None:
        """The public name that an address means: one of them, or one's :func:`slug`.

        Proxies keep slugs and change names with ``//`` or ``..`` in them.
        """
        with self._lock:
            return self._public_of_key.get(text, text if text in self._source else None)
