"""PyAV, imported when it is needed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from trt_afdet.support.packages import missing
from trt_afdet.support.threads import make_interruptible


def load_av() -> ModuleType:
    """The ``av`` module; raises MissingDependencyError if it cannot be imported."""
    try:
        import av
    except ImportError as error:
        raise missing(error) from error
    make_interruptible(av)
    return av


def open_input(address: str, **options: Any) -> Any:
    """An ``av.container.InputContainer``; options and errors are those of ``av.open``.

    Names that are not UTF-8 do not make a file unreadable. PyAV before 19 needs an option for that,
    which later versions do not know.
    """
    av = load_av()
    if int(av.__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    return av.open(address, **options)
