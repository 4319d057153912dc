"""JSON text that is valid under a schema."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from decimal import Decimal
from textwrap import indent
from typing import Any, Literal, get_args

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.caret import point_at
from dcmodel.constraints.schema.python_types import JsonModel, TypeSchema, is_type, type_schema
from dcmodel.errors import ConstraintRuntimeError, InvalidConstraintError
from dctokenizers import Tokenizer

Whitespace = Literal["spaced", "compact", "bounded", "flexible"]
KeyOrder = Literal["schema", "any"]
Formats = Literal["assert", "annotate"]
REMEDY = "Give a dict, JSON text, or a Python type."


class JsonSchema(Constraint):
    """JSON valid under `schema`: a dict, a boolean, JSON text, or a Python type.

    Types are pydantic models, dataclasses, TypedDicts, enums, `Literal`, builtin types, and lists, dicts,
    tuples and unions of them; `parse` then returns a value of the type.

    `whitespace` says how the text is laid out:

    - ``spaced``: ``{"a": 1, "b": [2, 3]}``, as `json.dumps` does. There is nothing to decide, so
      most of it is forced.
    - ``compact``: ``{"a":1,"b":[2,3]}``.
    - ``bounded``: up to 20 spaces, tabs and newlines wherever JSON allows them.
    - ``flexible``: any whitespace, without end. A model may fill its budget with it.

    `key_order` says whether properties come in the schema's order (quicker, and more of the text is
    forced) or in any. `formats` says whether ``format`` must hold or is a remark.
    """

    kind = "json_schema"

    def __init__(
        self,
        schema: Mapping[str, Any] | bool | str | JsonModel | type | Any,
        *,
        whitespace: Whitespace = "spaced",
        key_order: KeyOrder = "schema",
        formats: Formats = "assert",
    ) -> None:
        for name, value, known in (
            ("whitespace", whitespace, get_args(Whitespace)),
            ("key_order", key_order, get_args(KeyOrder)),
            ("formats", formats, get_args(Formats)),
        ):
            if value not in known:
                raise InvalidConstraintError(
                    f"{name} is {value!r}.", remedy=f"It is one of {', '.join(known)}."
                )
        self.whitespace = whitespace
        self.key_order = key_order
        self.formats = formats
        self._type: TypeSchema | None = None
        if isinstance(schema, str):
            schema = _load(schema)
        elif isinstance(schema, JsonModel) or is_type(schema):
            self._type = type_schema(schema)
            schema = self._type.schema
        self._text = _dump(schema)

    @property
    def schema(self) -> Any:
        """A copy of the schema as JSON values."""
        return json.loads(self._text)

    @property
    def key(self) -> Hashable:
        return (self.kind, self._text, self.whitespace, self.key_order, self.formats)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        from dcmodel.constraints.schema.build import Options, compile_schema

        options = Options(self.whitespace, self.key_order, self.formats == "assert")
        return compile_schema(self._text, options, tokenizer)[1]

    def to_dict(self) -> Mapping[str, Any]:
        result: dict[str, Any] = {"kind": self.kind, "schema": self.schema, "whitespace": self.whitespace}
        if self.key_order != "schema":
            result["key_order"] = self.key_order
        if self.formats != "assert":
            result["formats"] = self.formats
        return result

    def parse(self, text: str) -> Any:
        """The JSON value, or what the type makes of it.

        Whole numbers too long for `int` become `Decimal`, numbers too large for `float` become
        infinite. Raises `ConstraintRuntimeError` for a text that the type, or Python, refuses.
        """
        errors: tuple[type[Exception], ...] = (ValueError, RecursionError)
        errors += self._type.errors if self._type else ()
        try:
            if self._type is not None:
                return self._type.parse(text)
            return json.loads(text, parse_int=_parse_int)
        except errors as error:
            raise ConstraintRuntimeError(f"the JSON text cannot be made a value: {error}.") from error


def _parse_int(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise InvalidConstraintError("the JSON schema is nested too deeply.") from None
    except json.JSONDecodeError as error:
        what = f"the JSON schema is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise InvalidConstraintError(
            f"{what}.\n{indent(point_at(text, error.pos), '  ')}\n",
            remedy=REMEDY,
            position=error.pos,
        ) from None


def _dump(schema: Any) -> str:
    if not isinstance(schema, Mapping | bool):
        raise InvalidConstraintError(
            f"a JSON schema is an object or a boolean, not {schema!r:.80}.", remedy=REMEDY
        )
    try:
        return json.dumps(schema if isinstance(schema, bool) else dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConstraintError(
            f"the JSON schema holds what JSON cannot: {error}.", remedy="Use JSON values only."
        ) from None
