"""Schemas from Python types, and values of those types from JSON text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dcmodel.errors import InvalidConstraintError, MissingDependencyError


@runtime_checkable
class JsonModel(Protocol):
    """A class like pydantic's models."""

    def model_json_schema(self) -> dict[str, Any]: ...

    def model_validate_json(self, json_data: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class TypeSchema:
    """A Python type as a JSON schema."""

    schema: dict[str, Any]
    parse: Callable[[str], Any]
    """A value of the type from JSON text. Raises `errors`."""
    errors: tuple[type[Exception], ...] = (ValueError,)


def is_type(value: object) -> bool:
    """Whether a value may be a type: a class, or what is written like ``list[int]`` or ``A | B``."""
    return isinstance(value, type) or hasattr(value, "__origin__") or type(value).__name__ == "UnionType"


def type_schema(kind: Any) -> TypeSchema:
    """The schema of pydantic models, dataclasses, TypedDicts, enums, `Literal`, builtin types, and of
    lists, dicts, tuples and unions of them.

    Raises `InvalidConstraintError` for a type that has no schema.
    """
    if isinstance(kind, JsonModel):
        return TypeSchema(kind.model_json_schema(), kind.model_validate_json)
    if hasattr(kind, "__pydantic_validator__"):
        return _from_pydantic(kind)
    try:
        import msgspec
    except ImportError:
        raise MissingDependencyError(
            "a schema from a Python type needs msgspec.", remedy="pip install msgspec"
        ) from None
    try:
        schema = msgspec.json.schema(kind)
        decoder = msgspec.json.Decoder(kind)
    except TypeError as error:
        if _mentions_pydantic(kind):
            return _from_pydantic(kind)
        raise InvalidConstraintError(
            f"{kind!r:.80} cannot be made a JSON schema: {error}.",
            remedy="Use a pydantic model, dataclass, TypedDict, Enum, Literal or builtin type.",
        ) from None
    return TypeSchema(_closed(schema), decoder.decode, (msgspec.MsgspecError, ValueError))


def _from_pydantic(kind: Any) -> TypeSchema:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return TypeSchema(adapter.json_schema(), adapter.validate_json)


def _mentions_pydantic(kind: Any) -> bool:
    parts = getattr(kind, "__args__", ())
    return (
        isinstance(kind, JsonModel)
        or hasattr(kind, "__pydantic_validator__")
        or any(map(_mentions_pydantic, parts))
    )


def _closed(schema: Any) -> Any:
    """Without keys that a dataclass or TypedDict has no place for."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: value if key in ("enum", "const", "default") else _closed(value) for key, value in schema.items()
    }
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        result.setdefault("additionalProperties", False)
    return result
