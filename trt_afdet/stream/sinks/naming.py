"""Names of sources where not every character is allowed."""

from __future__ import annotations

import hashlib
import re


def slug(source: str) -> str:
    """A source's name for files and paths: letters, digits, ``-`` and ``_``.

    Different names give different slugs: where something had to be replaced, a hash follows.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", source).strip("-")[:60]
    if plain and plain == source:
        return plain
    return f"{plain}-{hashlib.sha256(source.encode()).hexdigest()[:8]}".lstrip("-")
