"""The subset of JSON Schema that OpenAI takes with ``strict``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmql_backends.lmtp.server.openai.double.refusals import RefusalError

UNSUPPORTED = (
    *("allOf", "not", "dependentRequired", "dependentSchemas", "if", "then", "else", "patternProperties"),
    *("oneOf", "unevaluatedProperties", "propertyNames", "contains", "uniqueItems", "prefixItems"),
)
KINDS: Mapping[str, type[Any]] = {
    **dict.fromkeys(("properties", "$defs", "definitions"), dict),
    **dict.fromkeys(("required", "enum", "anyOf"), list),
}
NAMES: Mapping[type[Any], str] = {dict: "object", list: "array"}
MAX_PROPERTIES = 5_000
MAX_DEPTH = 10
MAX_ENUM_VALUES = 1_000


class _Subset:
    """One walk through a schema."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._properties = 0
        self._enum_values = 0

    def check(self, schema: Any, place: tuple[str, ...], depth: int) -> None:
        if not isinstance(schema, dict):
            raise self._error(place, f"{schema!r:.40} is not of type 'object'.")
        for keyword in UNSUPPORTED:
            if keyword in schema:
                raise self._error(place, f"'{keyword}' is not permitted.")
        for keyword, kind in KINDS.items():
            if not isinstance(schema.get(keyword, kind()), kind):
                raise self._error(place, f"{schema[keyword]!r:.40} is not of type '{NAMES[kind]}'.")
        self._count(schema, place, depth)
        if schema.get("type") == "object" or "properties" in schema:
            self._check_object(schema, place)
        for name, value in schema.get("properties", {}).items():
            self.check(value, (*place, "properties", name), depth + 1)
        if "items" in schema:
            self.check(schema["items"], (*place, "items"), depth + 1)
        for number, value in enumerate(schema.get("anyOf", ())):
            self.check(value, (*place, "anyOf", str(number)), depth + 1)
        for keyword in ("$defs", "definitions"):
            for name, value in schema.get(keyword, {}).items():
                self.check(value, (*place, keyword, name), depth)

    def _count(self, schema: dict[str, Any], place: tuple[str, ...], depth: int) -> None:
        self._properties += len(schema.get("properties", ()))
        self._enum_values += len(schema.get("enum", ()))
        if depth > MAX_DEPTH:
            raise self._error(place, f"the schema exceeds {MAX_DEPTH} levels of nesting.")
        if self._properties > MAX_PROPERTIES:
            raise self._error(place, f"the schema exceeds {MAX_PROPERTIES} properties.")
        if self._enum_values > MAX_ENUM_VALUES:
            raise self._error(place, f"the schema exceeds {MAX_ENUM_VALUES} enum values.")

    def _check_object(self, schema: dict[str, Any], place: tuple[str, ...]) -> None:
        if schema.get("additionalProperties") is not False:
            raise self._error(place, "'additionalProperties' is required to be supplied and to be false.")
        required = schema.get("required", [])
        absent = sorted(name for name in schema.get("properties", ()) if name not in required)
        if absent:
            raise self._error(
                place,
                "'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{absent[0]}'.",
            )

    def _error(self, place: tuple[str, ...], reason: str) -> RefusalError:
        message = f"Invalid schema for response_format '{self._name}': In context={place!r}, {reason}"
        return RefusalError(message, param="response_format")


def check_strict(name: str, schema: Any) -> None:
    """Raise `RefusalError` unless OpenAI takes the schema."""
    subset = _Subset(name)
    subset.check(schema, (), 0)
    if schema.get("type") != "object":
        reason = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
        raise RefusalError(f"Invalid schema for response_format '{name}': {reason}", param="response_format")
