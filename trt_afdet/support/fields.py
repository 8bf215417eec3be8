"""Limits of dataclass fields, in their annotations.

:func:`check_fields`, pydantic and the JSON Schema of ``cameras.yaml`` read the same annotations.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Annotated, Any, Literal

from trt_afdet.errors import InvalidValueError
from trt_afdet.support.suggest import nearest


@dataclass(frozen=True)
class Limit:
    """A range: at least ``least``, above ``above``, at most ``most``."""

    least: float | None = None
    above: float | None = None
    most: float | None = None

    def check(self, value: Any) -> Any:
        """Returns the number; raises InvalidValueError if it is too small, too large or NaN."""
        if self.least is not None and not value >= self.least:
            raise InvalidValueError(f"must be at least {self.least:g}", got=f"{value:g}")
        if self.above is not None and not value > self.above:
            raise InvalidValueError(f"must be above {self.above:g}", got=f"{value:g}")
        if self.most is not None and not value <= self.most:
            raise InvalidValueError(f"must be at most {self.most:g}", got=f"{value:g}")
        return value

    # Pydantic, an optional package, calls these.

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        words = {"minimum": self.least, "exclusiveMinimum": self.above, "maximum": self.most}
        return handler(schema) | {k: v for k, v in words.items() if v is not None}


Share = Annotated[float, Limit(least=0, most=1)]
Count = Annotated[int, Limit(least=1)]
NotNegative = Annotated[float, Limit(least=0)]
Positive = Annotated[float, Limit(above=0)]


def unknown_choice(value: object, choices: tuple[str, ...]) -> InvalidValueError:
    hint = nearest(str(value), choices)
    return InvalidValueError(f"must be one of {', '.join(choices)}", got=value, hint=hint)


def check_fields(instance: Any) -> None:
    """Checks a dataclass by its annotations; an InvalidValueError begins with the field."""
    for name, check in _checks(instance.__class__).items():
        value = getattr(instance, name)
        for one in value.values() if isinstance(value, Mapping) else [value]:
            try:
                if one is not None:
                    check(one)
            except InvalidValueError as error:
                what, got, hint = f"{name} {error.what}", error.got, error.hint
                raise InvalidValueError(what, got=got, hint=hint) from None


@cache
def _checks(cls: Any) -> dict[str, Callable[[Any], Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {field.name: _check_of(hints[field.name]) for field in fields(cls)}
    return {name: check for name, check in found.items() if check is not None}


def _check_of(hint: Any) -> Callable[[Any], Any] | None:
    """The check for X, for X | None, or for the values of Mapping[str, X]."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return next((part.check for part in parts if isinstance(part, Limit)), None)
    if origin is Literal:
        return partial(_check_choice, parts)
    checks = (_check_of(part) for part in parts)
    return next((check for check in checks if check is not None), None)


def _check_choice(choices: tuple[str, ...], value: object) -> None:
    if value not in choices:
        raise unknown_choice(value, choices)
