"""PyAV, imported when it is needed."""

from __future__ import annotations

from types import ModuleType

from trt_afdet.packages import missing
from trt_afdet.threads import make_interruptible


def load_av() -> ModuleType:
    """The ``av`` module.

    Raises:
        MissingDependencyError: If it cannot be imported.
    """
    try:
        import av
    except ImportError as error:
        raise missing(error) from error
    make_interruptible(av)
    return av
