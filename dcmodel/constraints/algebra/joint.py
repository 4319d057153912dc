"""Parts one after the other as one grammar of the mask engine, where that says exactly the same.

The engine's lexer is greedy: at a border it goes on with the last piece of the first part as long as it
can. So two parts may stand in one grammar only if the second can never begin with what would continue
a complete first one. Then the engine's own masks and forced tokens hold across the border.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.algebra.regular import is_empty_terminal
from dcmodel.constraints.algebra.walkers import bytes_of
from dcmodel.constraints.choice import Choice
from dcmodel.constraints.json_schema import JsonSchema
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import (
    NO_FORCING,
    build_engine,
    engine_error,
    first_mask_error,
    without_forcing,
)
from dcmodel.errors import CapabilityError
from dctokenizers import Tokenizer

CONTINUES_NUMBER = frozenset(b"0123456789.eE+-")


def join_grammars(
    rules: Sequence[Constraint], parts: Sequence[CompiledConstraint], tokenizer: Tokenizer
) -> LlgCompiled | None:
    """One compiled grammar for all parts, or None where the engine might read a border otherwise."""
    grammars = [_plain_grammar(part) for part in parts]
    if any(grammar is None for grammar in grammars):
        return None
    for place, rule in enumerate(rules[:-1]):
        first = _first_bytes(parts, place + 1)
        if first is None or not _is_safe(rule, first):
            return None
    forcing = all(isinstance(part, LlgCompiled) and part.forcing for part in parts)
    names = [f"part{place}" for place in range(len(parts))]
    start = f"start: {' '.join(f'@{name}' for name in names)}\n" + ("" if forcing else NO_FORCING)
    named = [{**grammar, "name": name} for name, grammar in zip(names, grammars, strict=True) if grammar]
    text = json.dumps({"grammars": [{"lark_grammar": start}, *named]})
    engine = build_engine(text, tokenizer)
    if engine_error(engine) or first_mask_error(engine, tokenizer):
        return None
    return LlgCompiled(engine, text, tokenizer, forcing=forcing)


def _plain_grammar(part: CompiledConstraint) -> dict[str, object] | None:
    """The one grammar of a part, without a wrapper."""
    if not isinstance(part, LlgCompiled):
        return None
    text = part.grammar
    if not text.lstrip().startswith("{"):
        return {"lark_grammar": text}
    grammars: list[dict[str, object]] = json.loads(text)["grammars"]
    if len(grammars) == 2 and text == without_forcing(json.dumps({"grammars": grammars[1:]})):
        grammars = grammars[1:]
    return grammars[0] if len(grammars) == 1 else None


def _first_bytes(parts: Sequence[CompiledConstraint], place: int) -> frozenset[int] | None:
    """The bytes that may follow the border before part `place`; None where that is not known."""
    first: set[int] = set()
    for part in parts[place:]:
        try:
            walker = part.walker()
        except CapabilityError:
            return None
        first.update(bytes_of(walker.following()))
        if not walker.is_accepting:
            break
    return frozenset(first)


def _is_safe(rule: Constraint, first: frozenset[int]) -> bool:
    """Whether no byte of `first` can continue a complete text of `rule`."""
    if isinstance(rule, JsonSchema):
        return not _may_be_number(rule.schema) or not first & CONTINUES_NUMBER
    if isinstance(rule, Choice):
        return _is_safe_choice(rule.options, first)
    terminal = rule.terminal()
    if terminal is None:
        return False
    letters = _character_class(first)
    return not letters or is_empty_terminal(f"({terminal} & ({terminal} {letters} /(?s:.*)/))")


def _is_safe_choice(options: Sequence[str], first: frozenset[int]) -> bool:
    texts = sorted(option.encode() for option in options)
    return not any(
        longer.startswith(text) and longer[len(text)] in first
        for place, text in enumerate(texts)
        for longer in _with_prefix(texts, place)
    )


def _with_prefix(texts: list[bytes], place: int) -> list[bytes]:
    found = []
    for longer in texts[place + 1 :]:
        if not longer.startswith(texts[place]):
            break
        found.append(longer)
    return found


def _character_class(first: frozenset[int]) -> str:
    """A regex of the characters that begin with one of these bytes."""
    ranges = [f"\\x{{{byte:02x}}}" for byte in sorted(first) if byte < 0x80]
    if any(byte >= 0x80 for byte in first):
        ranges.append("\\x{80}-\\x{10ffff}")
    return f"/[{''.join(ranges)}]/" if ranges else ""


def _may_be_number(schema: object) -> bool:
    """Whether a value may be a bare number, as far as a look at the top tells."""
    if not isinstance(schema, dict):
        return True
    kinds = schema.get("type", "number")
    names = kinds if isinstance(kinds, list) else [kinds]
    return "number" in names or "integer" in names
