"""What `jsonschema_rs` knows about schemas: their canonical form, and exact validation.

Its canonical form says the same with fewer means: references resolved, `not`, `oneOf`, `if` and
dependencies as `anyOf`, `unevaluated...` as what they leave over, each keyword with its type.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import jsonschema_rs
from jsonschema_rs import CanonicalSchema, Validator
from jsonschema_rs.canonical import (
    CanonicalizationError,
    ReferenceView,
    Satisfiability,
)

from dcmodel.constraints.schema.ecma import parse
from dcmodel.constraints.schema.ecma_tree import NotRegularError
from dcmodel.constraints.schema.numbers import HugeNumberError, load_exact
from dcmodel.errors import InvalidConstraintError, UnsupportedConstraintError

BACKTRACK_LIMIT = 200_000
"""Steps that a pattern with look-around or back-references may take on one string."""
MAX_REFERENCES = 64
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_LIMIT)
_EMAILS = jsonschema_rs.EmailOptions(allow_display_text=False)


class _OutsideError(Exception):
    """A reference that leads out of the schema."""


def _refuse(uri: str) -> Any:
    raise _OutsideError(uri)


def read_schema(text: str) -> Any:
    """A schema with exact numbers. Raises `InvalidConstraintError`."""
    try:
        return load_exact(text)
    except HugeNumberError as error:
        raise UnsupportedConstraintError(
            f"the JSON schema cannot be used: it holds the number {error}.",
            remedy="Use numbers that can be computed with.",
            keyword="number",
        ) from None


def canonicalize(schema: Any, *, formats: bool) -> CanonicalSchema:
    """The canonical form. Raises `InvalidConstraintError` with a JSON pointer to what is wrong."""
    try:
        return jsonschema_rs.canonicalize(
            schema, validate_formats=formats, pattern_options=_PATTERNS, retriever=_refuse
        )
    except (ValueError, TypeError, RecursionError, _OutsideError, jsonschema_rs.ReferencingError) as error:
        raise refusal(error) from None


def make_validator(schema: Any, *, formats: bool) -> Validator:
    """An exact check of values read by `numbers.load_exact`. Raises `InvalidConstraintError`."""
    try:
        return jsonschema_rs.validator_for(
            schema,
            validate_formats=formats,
            pattern_options=_PATTERNS,
            email_options=_EMAILS,
            retriever=_refuse,
        )
    except (ValueError, TypeError, RecursionError, _OutsideError, jsonschema_rs.ReferencingError) as error:
        raise refusal(error) from None


def refusal(error: Exception) -> InvalidConstraintError:
    """The typed error for what the library says of a schema."""
    if isinstance(error, jsonschema_rs.ValidationError):
        kind = error.kind.name if not isinstance(error.kind, str) else error.kind
        pointer = to_pointer(error.instance_path)
        if kind == "$ref" or "Resource" in error.message or "Pointer" in error.message:
            return _outside(error.message, pointer)
        if kind == "format" and error.message.endswith('"regex"'):
            said = f"`pattern` at {pointer} is no regex of ECMA 262: {error.message:.200}."
            return InvalidConstraintError(f"the JSON schema is wrong: {said}")
        return InvalidConstraintError(
            f"the JSON schema is wrong at {pointer}: {error.message:.200}.",
            remedy=f"See what `{pointer.rpartition('/')[2]}` may be in JSON Schema.",
        )
    message = str(error)
    is_outside = isinstance(error, jsonschema_rs.ReferencingError | _OutsideError)
    if is_outside or message.startswith(("Resource", "Pointer", "Anchor", "Unresolvable")):
        return _outside(message, "")
    if message.startswith("invalid regular expression"):
        return _pattern_refusal(message)
    return InvalidConstraintError(f"the JSON schema is wrong: {message:.200}.")


def _pattern_refusal(message: str) -> InvalidConstraintError:
    """Wrong, or only too large for the library."""
    try:
        parse(json.loads(message.partition(": ")[2]))
    except (ValueError, NotRegularError) as error:
        said = f" ({error})" if isinstance(error, NotRegularError) else ""
        return InvalidConstraintError(
            f"the JSON schema is wrong, because of `pattern`: {message:.200}{said}."
        )
    return UnsupportedConstraintError(
        f"the JSON schema cannot be used, because of `pattern`: {message:.200} (too large).",
        remedy="Use smaller repeats, or `maxLength`.",
        keyword="pattern",
    )


def _outside(message: str, pointer: str) -> UnsupportedConstraintError:
    place = f" at {pointer}" if pointer else ""
    return UnsupportedConstraintError(
        f"the JSON schema cannot be used, because of `$ref`{place}: {message:.200}.",
        remedy="Put its target under $defs.",
        keyword="$ref",
    )


def to_pointer(path: list[str | int]) -> str:
    """A JSON pointer as a fragment: ``#/properties/a~1b``."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


@lru_cache(maxsize=4096)
def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of ECMA 262 is found in a text."""
    return _pattern_validator(pattern).is_valid(text)


@lru_cache(maxsize=512)
def _pattern_validator(pattern: str) -> Validator:
    return jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=_PATTERNS)


def resolve(node: CanonicalSchema) -> CanonicalSchema:
    """The node itself, or what its reference leads to in the end."""
    for _ in range(MAX_REFERENCES):
        view = node.view()
        if not isinstance(view, ReferenceView):
            return node
        target = node.definition(view.uri)
        if target is None:
            raise UnsupportedConstraintError(
                f"the JSON schema cannot be used, because of `$ref`: {view.uri!r} is not known.",
                remedy="Put its target under $defs.",
                keyword="$ref",
            )
        node = target
    raise UnsupportedConstraintError(
        "the JSON schema cannot be used: its references lead round in a circle.",
        remedy="Let each recursion go through a property or an item.",
        keyword="$ref",
    )


def meet(one: CanonicalSchema, other: CanonicalSchema) -> CanonicalSchema | None:
    """What both admit; None where that cannot be said."""
    try:
        return one.intersect(other)
    except CanonicalizationError:
        return None


def are_apart(one: CanonicalSchema, other: CanonicalSchema) -> bool:
    """Whether surely no value is admitted by both."""
    both = meet(resolve(one), resolve(other))
    return both is not None and is_empty(both)


def is_empty(node: CanonicalSchema) -> bool:
    """Whether surely no value is admitted."""
    return node.satisfiability() == Satisfiability.NO


def check_alone(node: CanonicalSchema, *, formats: bool) -> Validator:
    """A validator of a node of the canonical form, taken out of its document."""
    return make_validator(node.to_json_schema(), formats=formats)
