"""What a grammar may say that the engine would not take exactly: said in another way, or refused."""

from __future__ import annotations

import json
import re
from typing import Any

from dcmodel.constraints.lark_scan import Token, is_terminal_name, statements, tokens_of
from dcmodel.errors import UnsupportedConstraintError

ANY_TEXT = "/(?s:.*)/"
JSON_OPTIONS: dict[str, Any] = {
    "lenient": False,
    "coerce_one_of": False,
    # Without \u escapes: a key that is spelled with them would be accepted under any schema.
    "json_allowed_escapes": 'nrbtf\\"',
}
LOOSE = ("lenient", "coerce_one_of")


def guarded(text: str) -> str:
    """The grammar with complements of text instead of bytes, and strict JSON schemas.

    Raises `UnsupportedConstraintError`, with a position, for options that make the engine pass over what
    it cannot do.
    """
    tokens = list(tokens_of(text))
    edits = [*_complements(tokens), *_schemas(tokens, text)]
    for start, end, replacement in sorted(edits, reverse=True):
        text = f"{text[:start]}{replacement}{text[end:]}"
    return text


Edit = tuple[int, int, str]


def _complements(tokens: list[Token]) -> list[Edit]:
    """A complement holds what is no UTF-8 too: each terminal with one is cut down to text."""
    edits = []
    for statement in statements(tokens):
        head = statement[0]
        if head.kind != "name" or not is_terminal_name(head.text) or len(statement) < 3:
            continue
        if statement[1].text != ":":
            continue
        body = statement[2:]
        pairs = zip(body, [*body[1:], None], strict=True)
        if any(token.text == "~" and (after is None or after.kind != "number") for token, after in pairs):
            last = body[-1]
            source = " ".join(token.text for token in body)
            edits.append((body[0].position, last.position + len(last.text), f"({source}) & {ANY_TEXT}"))
    return edits


def _schemas(tokens: list[Token], text: str) -> list[Edit]:
    edits = []
    for token in tokens:
        if token.text != "%json":
            continue
        start = re.compile(r"\s*").match(text, token.position + len(token.text))
        begin = start.end() if start else token.position
        try:
            schema, end = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            continue  # the engine says what is wrong with it
        if isinstance(schema, dict):
            options = schema.get("x-guidance", {})
            for name in LOOSE:
                if isinstance(options, dict) and options.get(name):
                    error = UnsupportedConstraintError(
                        f"a JSON schema in the grammar sets `{name}`, with which invalid JSON would pass.",
                        remedy="Leave it out.",
                        keyword=name,
                    )
                    error.position = token.position
                    raise error
            merged = {**JSON_OPTIONS, **options} if isinstance(options, dict) else JSON_OPTIONS
            edits.append((begin, end, json.dumps({**schema, "x-guidance": merged})))
    return edits
