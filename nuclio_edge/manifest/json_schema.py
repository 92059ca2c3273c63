"""The manifest's JSON schema, built from the tables that check it, so that an editor completes what `check` accepts.

A schema sees one value at a time: which source fits, whether a file is there and the like only `check` can say. What it
refuses is refused by `check`, too.
"""

from __future__ import annotations

from nuclio_edge import registry
from nuclio_edge.manifest.tables import (
    FUNCTION,
    NAMED,
    OUTPUT,
    ROOT,
    SCHEMA_VERSION,
    SELECT,
    SHARED_TRIGGERS,
    SINKS,
    TRIGGER,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.manifest.schema import Field, Fields

    Schema = dict[str, Any]

_UNIT = r"(\.[0-9]+)?"
_DURATION = (
    rf"^(?=.)([0-9]+{_UNIT}w)?([0-9]+{_UNIT}d)?([0-9]+{_UNIT}h)?([0-9]+{_UNIT}m)?([0-9]+{_UNIT}s)?([0-9]+{_UNIT}ms)?$"
)
_TYPES: dict[str, Schema] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "path": {"type": "string"},
    "duration": {"type": "string", "pattern": _DURATION},
    "size": {"type": "string", "pattern": rf"^[0-9]+{_UNIT}([KMGT]iB|[kKMGT]B|B)$"},
    "rate": {"type": "string", "pattern": rf"^[0-9]+{_UNIT}/(ms|s|m|h|d|w)$"},
}
_SECRET: Schema = {
    "type": "object",
    "properties": {"secret": {"type": "string", "description": "its name"}},
    "required": ["secret"],
    "additionalProperties": False,
}


def build() -> Schema:
    """Return the schema (draft 2020-12) of a manifest with the kinds of this version."""
    properties = {name: _field(field) for name, field in ROOT.items()}
    properties["schema"]["const"] = SCHEMA_VERSION
    properties["log"]["properties"]["sinks"]["items"] = _by_kind(SINKS)
    properties["source"] = _named("source", _sources())
    properties["binding"] = _named("binding", _by_kind({}, registry.LATER_BINDINGS))
    function = _table(FUNCTION)
    function["properties"]["trigger"] = {"type": "array", "items": _any_kind("TRIGGER", TRIGGER)}
    function["properties"]["output"] = {"type": "array", "items": _any_kind("OUTPUT", OUTPUT)}
    properties["function"] = _named("function", function)
    properties[SHARED_TRIGGERS] = {"type": "array", "items": _any_kind("TRIGGER", {**TRIGGER, **SELECT})}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nuclio-edge manifest",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _table(fields: Fields) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": {key: _field(field) for key, field in fields.items()},
        "additionalProperties": False,
    }
    required = [key for key, field in fields.items() if field.required]
    if required:
        schema["required"] = required
    return schema


def _field(field: Field) -> Schema:
    schema = _shape(field)
    if field.doc:
        schema["description"] = field.doc
    return schema


def _shape(field: Field) -> Schema:
    if field.either:
        return {"anyOf": [_field(one) for one in field.either]}
    if field.type == "secret":
        return dict(_SECRET)
    if field.type == "table":
        return _table(field.fields or {})
    if field.type == "map":
        return {"type": "object", "additionalProperties": _field(field.of) if field.of else True}
    if field.type == "list":
        return _list(field)
    schema = dict(_TYPES[field.type])
    if field.choices is not None:
        schema["enum"] = list(field.choices)
    elif field.type in {"integer", "number"}:
        bounds = {"minimum": field.minimum, "maximum": field.maximum}
        schema.update({key: bound for key, bound in bounds.items() if bound is not None})
    elif field.type == "string" and field.minimum is not None:
        schema["minLength"] = field.minimum
    return {"anyOf": [schema, dict(_SECRET)]} if field.secret else schema


def _list(field: Field) -> Schema:
    schema: Schema = {"type": "array"}
    if field.of is not None:
        schema["items"] = _field(field.of)
    if field.minimum is not None:
        schema["minItems"] = field.minimum
    return {"anyOf": [schema["items"], schema]} if field.single and field.of is not None else schema


def _named(section: str, table: Schema) -> Schema:
    return {"type": "object", "description": NAMED[section], "additionalProperties": table}


def _sources() -> Schema:
    kinds = {kind: registry.tables(kind).PARAMS for kind in registry.SOURCES}
    return _by_kind(kinds)


def _by_kind(kinds: Mapping[str, Fields], others: tuple[str, ...] = ()) -> Schema:
    """Return the schema of a table whose key `kind` says which others it holds."""
    branches = []
    for kind, fields in kinds.items():
        table = _table(fields)
        table["properties"] = {"kind": {"const": kind}, **table["properties"]}
        branches.append({"if": {"properties": {"kind": {"const": kind}}}, "then": table})
    names: Schema = {"type": "string", "description": "which implementation", "examples": [*kinds, *others]}
    schema: Schema = {"type": "object", "properties": {"kind": names}, "required": ["kind"]}
    return {**schema, "allOf": branches} if branches else schema


def _any_kind(part: str, common: Fields) -> Schema:
    """Return the schema of a trigger or an output, whose source may be left out: the keys of every kind together."""
    keys: dict[str, list[Schema]] = {}
    for kind in registry.SOURCES:
        for key, field in (getattr(registry.tables(kind), part, None) or {}).items():
            schema = {**_field(field)}
            if schema not in keys.setdefault(key, []):
                keys[key].append(schema)
    table = _table(common)
    table["properties"].update({key: found[0] if len(found) == 1 else {"anyOf": found} for key, found in keys.items()})
    return table
