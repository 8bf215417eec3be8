"""What a probe finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One finding.

    Attributes:
        status: ``"ok"``, ``"warn"`` (something optional is missing) or ``"fail"``.
        name: What was looked at.
        detail: What was found.
        fix: What to do about it, a command where there is one; empty if nothing.
    """

    status: str
    name: str
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def first_line(error: object) -> str:
    """The first line of an error's text, or its type where there is none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
