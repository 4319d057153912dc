"""JSON text that is valid under a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from llguidance import LLMatcher

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import build_engine, engine_error, without_forcing
from dcmodel.constraints.schema.rewrite import rewrite_schema
from dcmodel.errors import (
    ConstraintRuntimeError,
    InvalidConstraintError,
    UnsatisfiableConstraintError,
    UnsupportedConstraintError,
)
from dctokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

Whitespace = Literal["spaced", "compact", "bounded", "flexible"]

STYLES: dict[str, JsonCompileOptions] = {
    "spaced": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "compact": {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"},
    "bounded": {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\t]{0,20}"},
    "flexible": {"whitespace_flexible": True},
}
# Without \u escapes: the engine accepts a key that is spelled with them under any schema.
STRICT: JsonCompileOptions = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": 'nrbtf\\"'}


@runtime_checkable
class JsonModel(Protocol):
    """A class like pydantic's models."""

    def model_json_schema(self) -> dict[str, Any]: ...

    def model_validate_json(self, json_data: str) -> Any: ...


class JsonSchema(Constraint):
    """JSON valid under `schema`: a dict, a boolean, JSON text, or a class with `model_json_schema()`.

    Properties come in the schema's order. `whitespace` says how the text is laid out:

    - ``spaced``: ``{"a": 1, "b": [2, 3]}``, as `json.dumps` does. There is nothing to decide, so
      most of it is forced.
    - ``compact``: ``{"a":1,"b":[2,3]}``.
    - ``bounded``: up to 20 spaces, tabs and newlines wherever JSON allows them.
    - ``flexible``: any whitespace, without end. A model may fill its budget with it.
    """

    kind = "json_schema"

    def __init__(
        self, schema: Mapping[str, Any] | bool | str | JsonModel, *, whitespace: Whitespace = "spaced"
    ) -> None:
        if whitespace not in get_args(Whitespace):
            raise InvalidConstraintError(
                f"whitespace is {whitespace!r}.", remedy=f"It is one of {', '.join(get_args(Whitespace))}."
            )
        self.whitespace = whitespace
        self.model: JsonModel | None = None
        if isinstance(schema, str):
            schema = _load(schema)
        elif isinstance(schema, JsonModel):
            self.model = schema
            schema = schema.model_json_schema()
        self._text = _dump(schema)

    @property
    def schema(self) -> Any:
        """A copy of the schema as JSON values."""
        return json.loads(self._text)

    @property
    def key(self) -> Hashable:
        return (self.kind, self._text, self.whitespace)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        if self._text == "false":
            raise UnsatisfiableConstraintError("no JSON value is valid under the schema `false`.")
        schema = self.schema
        text, may_force = rewrite_schema({} if schema is True else schema)
        options: JsonCompileOptions = {**STYLES[self.whitespace], **STRICT}
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=options)
        except ValueError as error:
            raise InvalidConstraintError(f"the JSON schema cannot be read: {error}.") from None
        if not may_force:
            grammar = without_forcing(grammar)
        engine = build_engine(grammar, tokenizer)
        if message := engine_error(engine):
            raise _refusal(message)
        return LlgCompiled(engine, grammar, tokenizer, forcing=may_force)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "schema": self.schema, "whitespace": self.whitespace}

    def parse(self, text: str) -> Any:
        """The JSON value, or what the class makes of it.

        Whole numbers too long for `int` become `Decimal`, numbers too large for `float` become
        infinite. Raises `ConstraintRuntimeError` for a text that the class, or Python, refuses.
        """
        try:
            if self.model is not None:
                return self.model.model_validate_json(text)
            return json.loads(text, parse_int=_parse_int)
        except (ValueError, RecursionError) as error:
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
        raise InvalidConstraintError(
            f"the JSON schema is not JSON: {error.msg} at line {error.lineno} column {error.colno}.",
            remedy="Give a dict, JSON text, or a pydantic model.",
            position=error.pos,
        ) from None


def _dump(schema: Any) -> str:
    if not isinstance(schema, Mapping | bool):
        raise InvalidConstraintError(
            f"a JSON schema is an object or a boolean, not {schema!r:.80}.",
            remedy="Give a dict, JSON text, or a pydantic model.",
        )
    try:
        return json.dumps(schema if isinstance(schema, bool) else dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConstraintError(
            f"the JSON schema holds what JSON cannot: {error}.", remedy="Use JSON values only."
        ) from None


SIMPLER = "Leave it out of the schema and check the result, or say it otherwise."
REFUSALS: tuple[tuple[str, str, str], ...] = (
    # what the engine says, the keyword at fault (or the group that holds it), the remedy
    (r'Unimplemented keys: \["([^"]*)"', "", SIMPLER),
    (r"oneOf constraints", "oneOf", "Use `anyOf`, or cases that differ in a required property."),
    (r"Unknown format: ", "format", SIMPLER),
    (r"Resource .* not present in a registry|Pointer ", "$ref", "Put its target under $defs."),
    (r"patternProperty regexes", "patternProperties", "Write patterns that exclude each other."),
    (r"min/maxProperties only", "minProperties", "List the properties as `required`."),
    (r"Value for 'multipleOf'|invalid multiple", "multipleOf", SIMPLER),
    (r"(?s).*error: .* (?:is|are) not supported|lookarounds not supported", "pattern", SIMPLER),
    (r".*not supported", "schema", SIMPLER),
)


def _refusal(message: str) -> InvalidConstraintError:
    """The typed error for the engine's refusal."""
    if message.startswith("Unsatisfiable schema"):
        reason = message.partition(": ")[2].partition("\n")[0]
        return UnsatisfiableConstraintError(f"no JSON value is valid under the schema: {reason:.200}.")
    for said, keyword, remedy in REFUSALS:
        if found := re.match(said, message):
            keyword = keyword or found[1]
            return UnsupportedConstraintError(
                f"the JSON schema cannot be used, because of `{keyword}`: {_last_line(message)}.",
                remedy=remedy,
                keyword=keyword,
            )
    return InvalidConstraintError(f"the JSON schema is wrong: {_last_line(message)}.")


def _last_line(message: str) -> str:
    """The engine draws a caret under a pattern; what is wrong stands below it."""
    lines = message.strip().splitlines()
    reason = lines[-1].removeprefix("error: ").rstrip(".")
    return f"the pattern {lines[1].strip()!r:.80} ({reason})" if lines[0] == "regex parse error:" else reason
