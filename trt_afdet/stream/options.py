"""Options of sources and sinks: ``name=value`` pairs and their types.

The parameters of a class are its options, and their annotations select the reader of a value.
Sources and sinks, addresses and YAML files use the same readers.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote, unquote

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.fields import Limit, unknown_choice
from trt_afdet.support.suggest import nearest
from trt_afdet.support.text import read_secret

T = TypeVar("T")

#: Options whose values are never shown. ``NAME_file`` reads each of them from a file.
SECRETS = ("user", "password", "token", "secret")


def split_options(text: str) -> list[tuple[str, str]]:
    """``name=value&...`` as pairs, decoded; ``+`` is a plus. Every option needs its ``=``."""
    pairs = [part.partition("=") for part in text.split("&") if part]
    if not all(equals for _, equals, _ in pairs):
        # The text may be the rest of a password, so the error does not show it.
        raise InvalidValueError("an option lacks its '='", hint="in a value write & as %26")
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


def join_options(values: Mapping[str, object]) -> str:
    """The inverse of :func:`split_options`; booleans become yes and no."""
    return "&".join(
        f"{quote(name, safe='')}={quote(_text(value), safe='')}" for name, value in values.items()
    )


# ---- Readers of values. They raise InvalidValueError for anything else.

_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH |= {"0": False, "false": False, "no": False, "off": False}
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_TIMES = {
    "": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


def _text(value: object) -> str:
    """YAML reads yes, no, on and off as booleans."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def read_truth(value: object) -> bool:
    """Reads ``yes``, ``no``, ``on``, ``off``, ``true``, ``false``, ``1`` or ``0``."""
    truth = _TRUTH.get(str(value).strip().lower())
    if truth is None:
        raise InvalidValueError("must be yes or no", got=value)
    return truth


def read_whole(value: object) -> int:
    """Reads a whole number."""
    text = str(value).strip()
    # YAML and JSON may write it as "3.0".
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,18}(\.0+)?", text, re.ASCII):
        raise InvalidValueError("must be a whole number", got=value)
    return int(text.partition(".")[0])


def read_number(value: object) -> float:
    """Reads a finite number."""
    try:
        text = str(value)
        number = float(text) if text.isascii() and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValueError("must be a number like 12.5", got=value)
    return number


def read_seconds(value: object) -> float:
    """Reads ``10min``, ``1.5h``, ``250ms`` or a number of seconds as seconds."""
    return _quantity(value, _TIMES, "10min")


def read_size(value: object) -> int:
    """Reads ``2GB``, ``500 MiB`` or a number of bytes as bytes."""
    return int(_quantity(value, _SIZES, "2GB"))


def _quantity(value: object, units: Mapping[str, float], example: str) -> float:
    match = None if isinstance(value, bool) else _QUANTITY.fullmatch(str(value).strip())
    amount = math.inf
    if match is not None and match[2].lower() in units:
        amount = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(amount):
        known = ", ".join(unit for unit in units if unit)
        raise InvalidValueError(
            f"must be a number like {example}", got=value, hint=f"units: {known}"
        )
    return amount


def _choose(choices: tuple[str, ...], value: object) -> str:
    text = _text(value)
    if text not in choices:
        raise unknown_choice(text, choices)
    return text


#: Annotations for times and sizes.
Seconds = Annotated[float, read_seconds]
Timeout = Annotated[float, read_seconds, Limit(least=0.1)]
Size = Annotated[int, read_size]

_READERS: dict[Any, Callable[[object], Any]] = {
    bool: read_truth,
    int: read_whole,
    float: read_number,
    str: _text,
    Path: lambda value: Path(_text(value)),
}


# ---- The options of a class.

#: Converts the value of an option.
Reader = Callable[[object], Any]


@cache
def options_of(make: Callable[..., Any], without: tuple[str, ...] = ()) -> Mapping[str, Reader]:
    """Options of a class: parameters with a default and a readable type, except ``without``."""
    holder = make if is_dataclass(make) else vars(make)["__init__"]
    hints = typing.get_type_hints(holder, include_extras=True)
    options: dict[str, Reader] = {}
    for name, parameter in inspect.signature(make).parameters.items():
        read = _reader(hints.get(name))
        if read is None or name in without or parameter.default is parameter.empty:
            continue
        options[name] = read
        if name in SECRETS:
            options[f"{name}_file"] = lambda value: read_secret(Path(_text(value)))
    return options


def _reader(hint: Any) -> Reader | None:
    """The reader for a type; None if text cannot express its values."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType]
    if typing.get_origin(hint) is Annotated:
        read = next((kind for kind in kinds[1:] if callable(kind)), None) or _reader(kinds[0])
        limit = next((kind for kind in kinds[1:] if isinstance(kind, Limit)), Limit())
        return None if read is None else lambda value: limit.check(read(value))
    if typing.get_origin(hint) is Literal:
        return partial(_choose, tuple(kinds))
    if len(kinds) == 1:  # X | None
        return _reader(kinds[0])
    return _READERS.get(hint)


def read_values(
    known: Mapping[str, Reader], scheme: str, values: Mapping[str, object]
) -> dict[str, Any]:
    """Reads the values of options.

    Raises:
        InvalidValueError: If an option is unknown, of the wrong type, or out of range. The text
            names the nearest option and never shows the value of a secret.
        MissingFileError: If the file of a secret cannot be read.
    """
    read: dict[str, Any] = {}
    for name, value in values.items():
        plain = name.removesuffix("_file")
        if name not in known:
            # The name may be a piece of a password that contains "&".
            guarded = any(other in known and _is_secret(other) for other in values)
            got = name if name.isidentifier() and len(name) <= 20 and not guarded else None
            hint = (nearest(name, known) if got else None) or f"known: {', '.join(known) or 'none'}"
            raise InvalidValueError(f"{scheme}: unknown option", got=got, hint=hint)
        try:
            found = known[name](value)
        except InvalidValueError as error:
            raise InvalidValueError(
                f"{scheme}: {name} {error.what}",
                got=None if _is_secret(name) else error.got,
                hint=error.hint,
            ) from None
        read[plain if plain in SECRETS else name] = found
    return read


def read_options(cls: Callable[..., T], scheme: str, values: Mapping[str, object]) -> T:
    """Makes a dataclass from its options; raises as :func:`read_values`."""
    return cls(**read_values(options_of(cls), scheme, values))


def _is_secret(name: str) -> bool:
    return name.removesuffix("_file") in SECRETS
