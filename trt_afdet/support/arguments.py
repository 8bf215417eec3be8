"""Options of a detector as people give them: numbers, texts of numbers, names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.suggest import nearest


def fraction(name: str, given: Any) -> float | None:
    """A number within 0..1, also as text; None stays None. Raises InvalidValueError otherwise."""
    if given is None:
        return None
    value = _number(name, given)
    if 1 < value <= 100:
        hint = f"for {value:g} percent: {value / 100:g}"
        raise InvalidValueError(f"{name} must be within 0..1", got=given, hint=hint)
    if not 0 <= value <= 1:
        raise InvalidValueError(f"{name} must be within 0..1", got=given)
    return value


def count(name: str, given: Any) -> int | None:
    """A whole number from 1, also as text or as 100.0; or InvalidValueError. None stays None."""
    if given is None:
        return None
    value = _number(name, given)
    if value != int(value):
        raise InvalidValueError(f"{name} must be a whole number", got=given)
    if value < 1:
        raise InvalidValueError(f"{name} must be at least 1", got=given)
    return int(value)


def _number(name: str, given: Any) -> float:
    if hasattr(given, "item") and getattr(given, "ndim", None) == 0:
        given = given.item()  # NumPy's and torch's scalars.
    if isinstance(given, bool) or not isinstance(given, (str, Real)):
        got = repr(given) if isinstance(given, bool) else type(given).__name__
        raise InvalidValueError(f"{name} must be a number", got=got)
    try:
        value = float(given)
    except ValueError:
        hint, got = "decimals have a point" if "," in str(given) else None, repr(given)
        raise InvalidValueError(f"{name} must be a number", got=got, hint=hint) from None
    if not math.isfinite(value):
        raise InvalidValueError(f"{name} must be a finite number", got=given)
    return value


def class_ids(classes: str | int | Iterable[str | int], names: Sequence[str]) -> list[int]:
    """Names or ids (or one) as ascending ids; raises InvalidValueError for an unknown one."""
    if isinstance(classes, (str, Integral)):
        classes = [classes]  # type: ignore[list-item]
    if isinstance(classes, (bytes, Mapping)) or not isinstance(classes, Iterable):
        got, hint = type(classes).__name__, "a list such as [names[0]]"
        raise InvalidValueError("classes are names or ids", got=got, hint=hint)
    ids = {_class_id(wanted, names) for wanted in classes}
    if not ids:
        raise InvalidValueError("classes must name at least one class")
    return sorted(ids)


def _class_id(wanted: Any, names: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in names:
        return list(names).index(wanted)
    index = -1
    if (isinstance(wanted, str) and wanted.strip().isdecimal()) or (
        isinstance(wanted, Integral) and not isinstance(wanted, bool)
    ):
        index = int(wanted)
    if 0 <= index < len(names):
        return index
    hint = nearest(wanted, names) if isinstance(wanted, str) else None
    if isinstance(wanted, str) and "," in wanted:
        hint = "several classes are a list, on the command line words apart"
    got = wanted if isinstance(wanted, str) else repr(wanted)
    hint = hint or f"it has {', '.join(names)}"
    raise InvalidValueError("the model has no such class", got=got, hint=hint)
