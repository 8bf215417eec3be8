"""The nearest valid name for a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """``"did you mean 'epochs'?"`` for the nearest choice, or None if nothing is really near.

    Near are one typing mistake in three letters (a wrong, missing, doubled or swapped letter),
    other case, ``_`` for ``-``, the parts of a name in another order, and a beginning.
    """
    distances = {c: found for c in choices if (found := _distance(name, c)) is not None}
    return f"did you mean {min(distances, key=distances.__getitem__)!r}?" if distances else None


def _distance(name: str, choice: str) -> int | None:
    """Typing mistakes between two names, 0 for other spellings of one; None if too many."""
    given, wanted = _parts(name), _parts(choice)
    if sorted(given) == sorted(wanted):
        return 0
    a, b = "".join(given), "".join(wanted)
    if min(len(a), len(b)) < 2:
        return None
    mistakes = _mistakes(a, b)
    if mistakes <= min(3, max(len(a), len(b)) // 3):
        return mistakes
    # A beginning: "eval" for "evaluate", "build" for "build-engine".
    short, long = sorted((a, b), key=len)
    if long.startswith(short) and (len(short) >= 4 or (len(short) == 3 and short == a)):
        return len(long) - len(short)
    return None


def _parts(name: str) -> list[str]:
    return [part for part in name.lower().replace("_", "-").replace(" ", "-").split("-") if part]


def _mistakes(a: str, b: str) -> int:
    """Insertions, removals, replacements and swaps of neighbours that make ``a`` into ``b``."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
