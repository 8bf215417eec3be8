"""Reads the options of a source, given as texts in an address or as values in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from trt_afdet.errors import InvalidValueError
from trt_afdet.suggest import nearest

T = TypeVar("T")

_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH |= {"0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class _Bounds:
    least: float | None = None
    choices: tuple[str, ...] = ()


def option(
    default: Any, *, least: float | None = None, choices: tuple[str, ...] = (), secret: bool = False
) -> Any:
    """A field of a class of options. The type of its default is the type of the option.

    Args:
        default: Its value when it is not given.
        least: Smallest number.
        choices: Texts that are allowed.
        secret: Keeps it out of the ``repr``.
    """
    return field(default=default, repr=not secret, metadata={"": _Bounds(least, choices)})


def read_options(cls: type[T], scheme: str, values: Mapping[str, object]) -> T:
    """An instance of a class of options.

    Raises:
        InvalidValueError: If an option is unknown, of the wrong type, or out of range; the text
            names the nearest one and never the value of a secret.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            names = ", ".join(known) or "no options"
            hint = nearest(name, known) or f"it has {names}"
            raise InvalidValueError(f"{scheme} has no such option", got=name, hint=hint)
        place = f"{scheme}: {name}"
        field_ = known[name]
        shown = None if not field_.repr else value
        try:
            read[name] = _convert(value, type(field_.default))
        except ValueError as error:
            raise InvalidValueError(f"{place} must be {error}", got=shown) from None
        _check(place, read[name], field_.metadata[""], shown)
    return cls(**read)


def _convert(value: object, kind: type) -> object:
    """Raises ValueError with what the value must be."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        if (truth := _TRUTH.get(str(value).lower())) is not None:
            return truth
        raise ValueError("true or false")
    if kind is str:
        return str(value)
    what = "a whole number" if kind is int else "a number"
    if isinstance(value, bool):
        raise ValueError(what)
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError(what) from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise ValueError(what)
    return kind(number)


def _check(place: str, value: Any, bounds: _Bounds, shown: object) -> None:
    if bounds.least is not None and value < bounds.least:
        raise InvalidValueError(f"{place} must be at least {bounds.least:g}", got=shown)
    if bounds.choices and value not in bounds.choices:
        hint = (
            nearest(value, bounds.choices) or f"one of {', '.join(c for c in bounds.choices if c)}"
        )
        raise InvalidValueError(f"{place} has no such choice", got=shown, hint=hint)
