"""Reads the options of a source, given as texts in an address or as values in a YAML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from trt_afdet.errors import InvalidValueError
from trt_afdet.stream.addresses import read_number, read_seconds, read_truth, read_whole, text_of
from trt_afdet.support.suggest import nearest

T = TypeVar("T")


@dataclass(frozen=True)
class _Bounds:
    least: float | None = None
    choices: tuple[str, ...] = ()
    seconds: bool = False


def option(
    default: Any,
    *,
    least: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    seconds: bool = False,
) -> Any:
    """A field of a class of options. The type of its default is the type of the option.

    Args:
        default: Its value when it is not given.
        least: Smallest number.
        choices: Texts that are allowed.
        secret: Keeps it out of the ``repr``.
        seconds: It is a time: ``5``, ``5s``, ``10min``.
    """
    return field(default=default, repr=not secret, metadata={"": _Bounds(least, choices, seconds)})


_READERS: dict[type, Callable[[object], Any]] = {
    bool: read_truth,
    int: read_whole,
    float: read_number,
    str: text_of,
}


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
            # It may be a piece of a password that has a "&" in it.
            guarded = any(n in known and not known[n].repr for n in values)
            got = name if name.isidentifier() and len(name) <= 20 and not guarded else None
            hint = (nearest(name, known) if got else None) or f"it has {names}"
            raise InvalidValueError(f"{scheme} has no such option", got=got, hint=hint)
        field_ = known[name]
        bounds: _Bounds = field_.metadata[""]
        shown = value if field_.repr else None
        reader = read_seconds if bounds.seconds else _READERS[type(field_.default)]
        try:
            read[name] = reader(_choice(value, bounds))
            _check(read[name], bounds)
        except InvalidValueError as error:
            raise InvalidValueError(
                f"{scheme}: {name} {error.what}", got=shown, hint=error.hint
            ) from None
    return cls(**read)


def _choice(value: object, bounds: _Bounds) -> object:
    """YAML reads yes, no, on and off as booleans."""
    if isinstance(value, bool) and bounds.choices:
        return "yes" if value else "no"
    return value


def _check(value: Any, bounds: _Bounds) -> None:
    if bounds.least is not None and value < bounds.least:
        raise InvalidValueError(f"must be at least {bounds.least:g}")
    if bounds.choices and value not in bounds.choices:
        listed = ", ".join(c for c in bounds.choices if c)
        hint = nearest(value, bounds.choices) or f"one of {listed}"
        raise InvalidValueError("has no such choice", hint=hint)
