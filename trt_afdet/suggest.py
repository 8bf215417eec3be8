"""The nearest valid name for a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """``"did you mean 'epochs'?"`` for the nearest choice, or None if nothing is near."""
    import difflib

    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else None
