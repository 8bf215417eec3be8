"""PyAV, imported when it is needed."""

from __future__ import annotations

from types import ModuleType

from trt_afdet.errors import MissingDependencyError


def load_av() -> ModuleType:
    """The ``av`` module.

    Raises:
        MissingDependencyError: If it cannot be imported.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            "PyAV cannot be imported", got=error, hint='pip install "trt-afdet[runtime]"'
        ) from error
    return av
