"""The errors this package raises.

Each derives from :class:`AfdetError` and from the builtin a caller would catch anyway, and its text
answers three questions in one line: what went wrong, what was got, what to do about it.
"""

from __future__ import annotations


def one_line(text: str) -> str:
    """A text as one line for a terminal, whatever a file's name or a library's text holds.

    What would not be seen (or would steer the terminal) is written as an escape.
    """
    text = " ".join(text.splitlines())
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


class AfdetError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: What went wrong, as a clause without a full stop.
        got: The value or file that was met instead, if it helps.
        hint: The next step for the reader.
    """

    #: Exit status of the command line: 2 for bad input, 1 for a run that failed.
    exit_code = 2

    def __init__(self, what: str, *, got: object = None, hint: str | None = None) -> None:
        self.what, self.got, self.hint = what, got, hint
        text = what + ("" if got is None else f" (got {got})") + (f" - {hint}" if hint else "")
        super().__init__(one_line(text))

    def __str__(self) -> str:
        # FileNotFoundError and friends derive from OSError, whose own __str__ knows errno only.
        return str(self.args[0])


class InvalidValueError(AfdetError, ValueError):
    """A value, an option or the content of a file is not acceptable."""


class MissingFileError(AfdetError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class CorruptFileError(AfdetError, ValueError):
    """A file exists but cannot be read as what it claims to be."""


class MissingDependencyError(AfdetError, ImportError):
    """An optional package is not installed."""


class RunError(AfdetError, RuntimeError):
    """The input was fine, but the run failed."""

    exit_code = 1


class WriteError(AfdetError, OSError):
    """A result cannot be written (full disk, no permission)."""
