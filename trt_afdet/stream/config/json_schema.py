"""The JSON Schema of ``cameras.yaml`` (draft 2020-12), from the classes of the configuration.

``trt-afdet run --schema`` prints it. A schema cannot check that names differ or that the model
has a class; ``trt-afdet run --check`` does.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, get_args

from trt_afdet.stream.analysis.shapes import LONGEST_NAME, MOST_SHAPES, Units
from trt_afdet.stream.analysis.tracking import TrackOptions
from trt_afdet.stream.analysis.zones import ZoneOptions
from trt_afdet.stream.config.addresses import SINKS, SOURCES
from trt_afdet.stream.config.schema import Config, SinkConfig, SourceConfig, WebConfig
from trt_afdet.stream.pipeline import Scheduling
from trt_afdet.stream.retry import Retry
from trt_afdet.support.packages import missing

Schema = dict[str, Any]

_PAIR = {"minItems": 2, "maxItems": 2}
_POINT: Schema = {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], **_PAIR}
#: A value from the environment may have any type.
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"}


def json_schema() -> Schema:
    """Makes the schema; needs pydantic."""
    try:
        from pydantic import TypeAdapter
    except ImportError as error:
        raise missing(error) from error
    top: Schema = TypeAdapter(Config).json_schema()
    kinds = top.pop("$defs")
    for cls in (SourceConfig, SinkConfig, WebConfig, Scheduling, Retry, TrackOptions, ZoneOptions):
        _describe(kinds[cls.__name__], cls)
    _describe(top, Config)
    source, keys = kinds["SourceConfig"], top["properties"]
    _write_short_forms(source["properties"])
    source["properties"]["uri"]["pattern"] = _SOURCE
    source["properties"]["name"]["anyOf"] = [{"type": "string", "pattern": r"\S"}]
    kinds["SinkConfig"]["properties"]["uri"]["pattern"] = _SINK
    kinds["WebConfig"]["not"] = {"anyOf": [_both(pair) for pair in combinations(_TOKENS, 2)]}
    without_tracks = {"every": {"maximum": 1}, "zones": {"maxProperties": 0}}
    source["allOf"] = [_if("track", {"const": False}, without_tracks)]
    for key in source["properties"].keys() - {"uri"}:
        source["properties"][key] = _or_null(source["properties"][key])
    own = {k: v for k, v in source["properties"].items() if k not in ("uri", "name")}
    description = {"description": "Keys of a source that hold for all sources."}
    kinds["Defaults"] = description | _object(own)
    keys["defaults"] = description | _ref("Defaults")
    address = {"type": "string", "minLength": 1}
    keys["sources"] |= {
        "minItems": 1,
        "items": {"anyOf": [address | {"pattern": _SOURCE}, _ref("SourceConfig")]},
    }
    keys["sinks"]["items"] = {"anyOf": [address | {"pattern": _SINK}, _ref("SinkConfig")]}
    keys["web"]["anyOf"] = [{"type": ["boolean", "integer", "string"]}, _ref("WebConfig")]
    keys["metrics"] = keys["metrics"] | {"anyOf": [{"type": ["integer", "string"]}]}
    for key in keys.keys() - {"sources"}:
        keys[key] = _or_null(keys[key])
    no_zones = {"items": {"properties": {"zones": {"const": None}}}}
    top["allOf"] = [_if("zones", {"type": "string"}, {"sources": no_zones})]
    kinds["Point"] = _POINT
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cameras.yaml of trt-afdet",
        **_with_variables(top),
        "$defs": {
            **{name: _with_variables(kind) for name, kind in kinds.items()},
            "Variable": _VARIABLE,
        },
    }


_TOKENS = ("token", "token_file", "token_env")


def _both(names: Sequence[str]) -> Schema:
    return {"required": list(names), "properties": {name: {"type": "string"} for name in names}}


def _if(key: str, schema: Schema, then: Schema) -> Schema:
    return {"if": {"properties": {key: schema}, "required": [key]}, "then": {"properties": then}}


def _object(properties: Schema, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **more, "additionalProperties": False}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _or_null(schema: Schema) -> Schema:
    """Allows a key without a value, which counts as absent."""
    text: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in text}
    kinds = rest.pop("anyOf", None) or [rest]
    return {**text, **(rest if kinds[0] is not rest else {}), "anyOf": [*kinds, {"type": "null"}]}


def _describe(schema: Schema, cls: type) -> None:
    """Adds the descriptions of the class's docstring; forbids unknown keys."""
    first_line = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
    schema["description"] = first_line.replace("``", "")
    schema["additionalProperties"] = False
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", doc, re.MULTILINE):
            texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    for name, value in schema["properties"].items():
        value.pop("title", None)
        if name in texts:
            plain = re.sub(r":\w+:`(?:[\w.~]*\.)?~?(\w+)`|``", r"\1", texts[name])
            value["description"] = re.sub(r"\bNone\b", "null", plain)


def _write_short_forms(keys: dict[str, Schema]) -> None:
    """Adds the short forms of a source's keys, see ``schema.py``."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    number = {"type": "number", "minimum": 0}
    size = {"anyOf": [number, _POINT | {"prefixItems": [number, number]}]}
    short: dict[str, Schema] = {
        "track": {"anyOf": [{"type": "boolean"}, _ref("TrackOptions")]},
        "conf": {"anyOf": [share, {"type": "object", "additionalProperties": share}]},
        "classes": {"anyOf": [{"type": "string"}, _list({"type": "string"})]},
        "min_size": size,
        "max_size": size,
        "region": _list(_ref("Point"), minItems=3),
        "zones": _zones(),
    }
    for name, schema in short.items():
        text = keys[name].get("description")
        keys[name] = {"description": text, **schema} if text else dict(schema)


def _zones() -> Schema:
    units = {"enum": list(get_args(Units))}
    name = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}

    def shapes(key: str, **points: int) -> Schema:
        keys = {"name": name, "units": units, key: _list(_ref("Point"), **points)}
        return _list(_object(keys, required=["name", key]), maxItems=MOST_SHAPES)

    zones, lines = shapes("polygon", minItems=3), shapes("points", **_PAIR)
    return _object({"units": units, "zones": zones, "lines": lines})


def _in_any_case(names: Iterable[str]) -> str:
    """A case-insensitive regular expression; JSON Schema has no flag for that."""
    return "|".join(
        "".join(f"[{c}{c.upper()}]" if c.isalpha() else re.escape(c) for c in name)
        for name in names
    )


# A known scheme, a path, or an address from the environment.
_SOURCE = rf"^(?![A-Za-z][A-Za-z0-9+.-]*://)|^({_in_any_case(SOURCES)})://"
_SINK = rf"^({_in_any_case(SINKS)}):|^\$\{{"


def _with_variables(schema: Any) -> Any:
    """Lets numbers, booleans and choices also come from the environment."""
    if isinstance(schema, list):
        return [_with_variables(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: v if k in ("if", "not") else _with_variables(v) for k, v in schema.items()}
    if made.get("type") in ("number", "integer", "boolean") or "enum" in made:
        text = {key: made.pop(key) for key in ("description", "default") if key in made}
        return {**text, "anyOf": [made, _ref("Variable")]}
    return made
