"""JSON schemas in the subset that OpenAI takes with ``strict``, where the same values are valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

ANNOTATIONS = (
    *("$schema", "$id", "$comment", "title", "default", "examples"),
    *("deprecated", "readOnly", "writeOnly"),
)
PLAIN = (
    *("type", "enum", "description", "$ref", "pattern", "format"),
    *("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
)
"""Keywords that stay as they are."""


class _NotStrictError(Exception):
    """The subset has no equivalent."""


def strict_form(schema: Any) -> dict[str, Any] | None:
    """An equivalent schema of the subset: annotations left out, ``const`` as ``enum``, ``allOf`` of one part.

    None where there is none: properties that may be missing, other properties, keywords it does not know.
    """
    try:
        strict = _strict(schema)
    except _NotStrictError:
        return None
    is_object = strict.get("type") == "object" and "anyOf" not in strict
    return strict if is_object or "$ref" in strict else None


def _strict(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise _NotStrictError
    strict: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ANNOTATIONS:
            continue
        if keyword in PLAIN:
            strict[keyword] = value
        elif keyword == "const":
            _merge(strict, {"enum": [value]})
        elif keyword in _INSIDE:
            _merge(strict, _INSIDE[keyword](value))
        else:
            raise _NotStrictError
    if strict.get("type") == "object" or "properties" in strict:
        _check_object(strict)
    return strict


def _check_object(strict: dict[str, Any]) -> None:
    """All properties have to be there, and no others."""
    names = set(strict.get("properties", {}))
    if strict.get("additionalProperties") is not False or set(strict.get("required", ())) != names:
        raise _NotStrictError


def _merge(strict: dict[str, Any], more: dict[str, Any]) -> None:
    if strict.keys() & more.keys():
        raise _NotStrictError
    strict.update(more)


def _each(keyword: str) -> Callable[[Any], dict[str, Any]]:
    def inside(value: Any) -> dict[str, Any]:
        return {keyword: {name: _strict(part) for name, part in value.items()}}

    return inside


def _only(value: Any) -> dict[str, Any]:
    if len(value) != 1:
        raise _NotStrictError
    return _strict(value[0])


def _closed(value: Any) -> dict[str, Any]:
    if value is not False:
        raise _NotStrictError
    return {"additionalProperties": False}


_INSIDE: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "properties": _each("properties"),
    "$defs": _each("$defs"),
    "definitions": _each("definitions"),
    "items": lambda value: {"items": _strict(value)},
    "anyOf": lambda value: {"anyOf": [_strict(part) for part in value]},
    "allOf": _only,
    "oneOf": _only,
    "required": lambda value: {"required": list(value)},
    "additionalProperties": _closed,
}
