"""Strings of a canonical schema as an expression inside a terminal."""

from __future__ import annotations

import re
from functools import lru_cache

import jsonschema_rs.canonical as forms
from jsonschema_rs import CanonicalSchema
from llguidance import LLMatcher

from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.constraints.schema.canonical import resolve
from dcmodel.constraints.schema.ecma_tree import NotRegularError, UnclearError
from dcmodel.constraints.schema.formats import PATTERNS
from dcmodel.constraints.schema.lark import LarkWriter
from dcmodel.constraints.schema.strings import (
    STRING,
    length_terminal,
    literal,
    pattern_terminal,
    plain_nodes,
)
from dcmodel.errors import UnsupportedConstraintError

MAX_LENGTH = 1_000_000
MAX_LEAST = 10_000
"""The greatest least length that is said beside patterns: it is counted along with them."""
LARGE_COUNT = re.compile(r"[{,][0-9]{5,}[,}]")


def string_expression(view: forms.StringView, writer: LarkWriter, *, formats: bool) -> str:
    """All strings of a view, or more where something is noted as loose."""
    parts = [text for pattern in view.patterns if (text := pattern_expression(pattern, writer)) is not None]
    parts += [
        f"~{text}"
        for pattern in view.excluded_patterns
        if (text := pattern_expression(pattern, writer, exact=True)) is not None
    ]
    parts += _formats(view, writer) if formats else []
    low, high = view.min_length or 0, view.max_length
    longest = MAX_LEAST if parts else MAX_LENGTH
    if low > longest:
        writer.note("minLength")
        low = longest
    if high is not None and high > MAX_LENGTH:
        writer.note("maxLength")
        high = None
    if low or high is not None:
        parts.append(length_terminal(low, high))
    if view.excluded:
        parts.append(f"~({' | '.join(map(literal, view.excluded))})")
    if view.content_media_types or view.content_encodings:
        writer.note("contentEncoding")
    if all(part.startswith("~") for part in parts):
        parts.insert(0, STRING)
    return " & ".join(parts)


@lru_cache(maxsize=1024)
def is_void(expression: str) -> bool:
    """Whether no string is of an expression."""
    # To find that out takes long where much is counted.
    if " & " not in expression or LARGE_COUNT.search(expression):
        return False
    engine = build_byte_engine(LLMatcher.grammar_from_lark(f"start: T\nT: {expression}\n"))
    return LlgWalker(engine).following() == 0


def pattern_expression(pattern: str, writer: LarkWriter, *, exact: bool = False) -> str | None:
    """The strings in which a pattern is found.

    Where that cannot be said it is noted as loose, and the result is wider or, if `exact`, None.
    """
    try:
        text = pattern_terminal(pattern)
        for plain in plain_nodes(pattern):
            writer.limit_pattern(plain)
    except UnclearError as error:
        raise UnsupportedConstraintError(
            f"the JSON schema cannot be used, because of `pattern`: {pattern!r:.80} has {error}.",
            remedy="Engines differ in how they read it.",
            keyword="pattern",
        ) from None
    except NotRegularError:
        writer.note("pattern")
        writer.may_force = False
        return None if exact else _relaxed(pattern)
    return text


def _relaxed(pattern: str) -> str | None:
    try:
        return pattern_terminal(pattern, relaxed=True)
    except NotRegularError:
        return None


def _formats(view: forms.StringView, writer: LarkWriter) -> list[str]:
    parts = []
    for name in view.formats:
        form = PATTERNS.get(name)
        if form is None:  # not of the standard, and so a remark
            continue
        if not form.is_exact:
            writer.note("format")
        for pattern in form.patterns:
            parts.append(pattern_terminal(pattern))
        if form.longest is not None:
            parts.append(length_terminal(0, form.longest))
    if view.excluded_formats:
        writer.note("format")
    return parts


def key_expression(node: CanonicalSchema | None, writer: LarkWriter, *, formats: bool) -> str:
    """The keys that a schema of names admits (None: all), or more where something is noted as loose."""
    if node is None:
        return STRING
    view = resolve(node).view()
    match view:
        case forms.TrueView():
            return STRING
        case forms.StringView():
            return string_expression(view, writer, formats=formats)
        case forms.ConstView(str(value)):
            return literal(value)
        case forms.EnumView(values):
            return f"({' | '.join(literal(value) for value in values if isinstance(value, str))})"
        case forms.AnyOfView(branches):
            return f"({' | '.join(f'({key_expression(one, writer, formats=formats)})' for one in branches)})"
        case forms.MultiTypeView(types) if "string" in types:
            return STRING
    writer.note("propertyNames")
    return STRING
