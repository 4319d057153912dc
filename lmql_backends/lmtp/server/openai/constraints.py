"""What the text must be: the many names that clients have for it, as one `Constraint`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import Any

from dcmodel.constraint import Constraint
from dcmodel.constraints import Choice, FixedMask, Grammar, JsonSchema, Regex, from_dict
from dcmodel.errors import DcModelError
from dcmodel.mask import TokenMask
from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import Generation, ResponseFormat, StructuredOutputs

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def constraint_of(body: Generation, vocab_size: int) -> tuple[Constraint | None, str]:
    """The conjunction of all that the body asks for, and the name of the field that (first) asks.

    Raises `InvalidConstraintError`, as a `FieldError` where the field is known.
    """
    found: list[Constraint] = []
    names: list[str] = []
    for name, kind, value in _asked(body, vocab_size):
        try:
            found.append(kind(value))
        except DcModelError as error:
            raise FieldError.about(name, error) from error
        names.append(name)
    if not found:
        return None, ""
    return functools.reduce(operator.and_, found), names[0]


def _asked(body: Generation, vocab_size: int) -> Iterator[tuple[str, Any, Any]]:
    """Name, constructor and argument of each rule in the body."""
    if body.response_format is not None:
        yield from _of_format(body.response_format)
    if body.structured_outputs is not None:
        yield from _structured(body.structured_outputs)
    named = (
        ("guided_json", JsonSchema, body.guided_json),
        ("guided_regex", Regex, body.guided_regex),
        ("guided_choice", Choice, body.guided_choice),
        ("guided_grammar", Grammar, body.guided_grammar),
        ("regex", Regex, body.regex),
        ("choice", Choice, body.choice),
        ("grammar", Grammar, body.grammar),
        ("constraint", from_dict, body.constraint),
    )
    yield from (item for item in named if item[2] is not None)
    if body.allowed_token_ids is not None:
        yield "allowed_token_ids", functools.partial(_allowed, vocab_size), body.allowed_token_ids


def _of_format(form: ResponseFormat) -> Iterator[tuple[str, Any, Any]]:
    if form.type == "json_object":
        yield "response_format", JsonSchema, ANY_OBJECT
    elif form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema is None:
            raise FieldError(
                "response_format.json_schema.schema",
                "the response_format has no schema.",
                remedy='Send {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}.',
                code="missing_required_parameter",
            )
        yield "response_format", JsonSchema, form.json_schema.schema


def _structured(asked: StructuredOutputs) -> Iterator[tuple[str, Any, Any]]:
    named = (
        ("structured_outputs.json", JsonSchema, asked.json),
        ("structured_outputs.regex", Regex, asked.regex),
        ("structured_outputs.choice", Choice, asked.choice),
        ("structured_outputs.grammar", Grammar, asked.grammar),
        ("structured_outputs.json_object", JsonSchema, ANY_OBJECT if asked.json_object else None),
    )
    given = [item for item in named if item[2] is not None]
    if not given:
        raise FieldError(
            "structured_outputs",
            "structured_outputs asks for nothing.",
            remedy="Give json, regex, choice, grammar or json_object in it, or leave it out.",
        )
    yield from given


def _allowed(vocab_size: int, token_ids: list[int]) -> FixedMask:
    return FixedMask(TokenMask.from_ids(token_ids, vocab_size))
