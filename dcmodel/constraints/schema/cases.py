"""Whether the cases of a `oneOf` exclude each other, so that `anyOf` means the same."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

TYPES = frozenset({"string", "number", "boolean", "null", "object", "array"})


def exclude_each_other(cases: list[Any]) -> bool:
    """Whether surely no value is valid under two of the schemas."""
    if len(cases) < 2 or not all(isinstance(case, dict) for case in cases):
        return False
    return all(_exclude(one, other) for one, other in combinations(cases, 2))


def _exclude(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if not _types(one) & _types(other) or _values_differ(one, other):
        return True
    if _types(one) | _types(other) != {"object"}:
        return False
    # Objects with a common required property of which the values differ.
    for name in {*one.get("required", ())} & {*other.get("required", ())}:
        properties = [case.get("properties", {}).get(name) for case in (one, other)]
        if all(isinstance(schema, dict) for schema in properties) and _exclude(*properties):
            return True
    return False


def _types(schema: dict[str, Any]) -> frozenset[str]:
    """The types that a value may have; whole numbers are numbers."""
    values = _values(schema)
    if values is not None:
        return frozenset(_type_of(json.loads(value)) for value in values)
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named
    if not names:
        return TYPES
    return frozenset("number" if name == "integer" else name for name in names)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    kinds = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return kinds[type(value)]


def _values_differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    mine, theirs = _values(one), _values(other)
    return mine is not None and theirs is not None and not mine & theirs


def _values(schema: dict[str, Any]) -> frozenset[str] | None:
    """The values of a `const` or `enum` as JSON text, equal ones alike; None where it has neither."""
    if "const" in schema:
        return frozenset({_canonical(schema["const"])})
    if isinstance(schema.get("enum"), list):
        return frozenset(map(_canonical, schema["enum"]))
    return None


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
