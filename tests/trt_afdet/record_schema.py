"""The records' JSON Schema, and a check that is stricter than it."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema

from trt_afdet.records import SCHEMA_FILE

DEFINITION: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without room for fields that it does not define."""
    schema = copy.deepcopy(schema)
    for item in schema["$defs"].values():
        if "properties" in item:
            item["additionalProperties"] = False
    return schema


VALIDATOR = jsonschema.Draft202012Validator(closed(DEFINITION))


def check(record: object) -> None:
    """Fails if the schema refuses a record, or does not define one of its fields."""
    kind = record.get("type") if isinstance(record, dict) else None
    name = {"event": "event_record"}.get(str(kind), str(kind))
    if name in DEFINITION["$defs"]:  # Says what is wrong; oneOf would only say that all are.
        VALIDATOR.evolve(
            schema={**VALIDATOR.schema, "oneOf": [{"$ref": f"#/$defs/{name}"}]}
        ).validate(record)
    VALIDATOR.validate(record)
