"""Options of a detector as people give them: numbers, texts of numbers, names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.suggest import nearest


def fraction(name: str, given: Any) -> float | None:
    """A number within 0..1, also as text; None stays None.

    Raises:
        InvalidValueError: Otherwise; the hint converts percent.
    """
    if given is None:
        return None
    value = _number(name, given)
    if 1 < value <= 100:
        raise InvalidValueError(
            f"{name} must be within 0..1", got=given, hint=f"for {value:g} percent: {value / 100:g}"
        )
    if not 0 <= value <= 1:
        raise InvalidValueError(f"{name} must be within 0..1", got=given)
    return value


def count(name: str, given: Any) -> int | None:
    """A whole number from 1, also as text or as 100.0; None stays None.

    Raises:
        InvalidValueError: Otherwise.
    """
    if given is None:
        return None
    value = _number(name, given)
    if value != int(value):
        raise InvalidValueError(f"{name} must be a whole number", got=given)
    if value < 1:
        raise InvalidValueError(f"{name} must be at least 1", got=given)
    return int(value)


def _number(name: str, given: Any) -> float:
    value = math.nan
    if hasattr(given, "item") and getattr(given, "ndim", None) == 0:
        given = given.item()  # NumPy's and torch's scalars.
    if isinstance(given, str):
        try:
            value = float(given)
        except ValueError:
            hint = "decimals have a point" if "," in given else None
            raise InvalidValueError(
                f"{name} must be a number", got=repr(given), hint=hint
            ) from None
    elif isinstance(given, Real) and not isinstance(given, bool):
        value = float(given)
    else:
        shown = repr(given) if isinstance(given, bool) else type(given).__name__
        raise InvalidValueError(f"{name} must be a number", got=shown)
    if not math.isfinite(value):
        raise InvalidValueError(f"{name} must be a finite number", got=given)
    return value


def class_ids(classes: str | int | Iterable[str | int], names: Sequence[str]) -> list[int]:
    """Names or ids to ascending ids without repeats; a single one needs no list.

    Raises:
        InvalidValueError: If one is unknown, with the nearest name.
    """
    if isinstance(classes, (str, Integral)):
        classes = [classes]  # type: ignore[list-item]
    if isinstance(classes, (bytes, Mapping)) or not isinstance(classes, Iterable):
        raise InvalidValueError(
            "classes are names or ids", got=type(classes).__name__, hint="a list such as [names[0]]"
        )
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
    raise InvalidValueError(
        "the model has no such class",
        got=wanted if isinstance(wanted, str) else repr(wanted),
        hint=hint or f"it has {', '.join(names)}",
    )
