"""What the outside world calls a source: its name, without anything that opens a door."""

from __future__ import annotations

import threading

from trt_afdet.stream.redact import redact

LONGEST = 200


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
