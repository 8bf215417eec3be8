"""A finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Uses of the package; each row names those that need it.
USES = ("detect", "run", "web", "train", "build-engine")
#: Who needs TensorRT, a GPU and what lies between them.
ENGINES = ("build-engine",)


@dataclass(frozen=True)
class Row:
    """One finding: what was examined, what was found, and who needs it."""

    status: str  # "ok", "fix" (the uses below need it) or "not needed".
    name: str
    detail: str
    fix: str = ""  # What to do about it, a command where there is one.
    uses: tuple[str, ...] = field(default=USES, compare=False)


def judged(good: bool, name: str, detail: str, fix: str, uses: tuple[str, ...] = USES) -> Row:
    """A row that is "ok", or else has something to fix."""
    return Row("ok", name, detail) if good else Row("fix", name, detail, fix, uses)


def first_line(error: object) -> str:
    """The first line of an error's text, or its type without one."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
