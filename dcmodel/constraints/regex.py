"""A text that matches a regular expression as a whole."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

from llguidance import LLMatcher, regex_to_lark

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.caret import with_caret
from dcmodel.constraints.forced_text import MAX_RUN, forced_text
from dcmodel.constraints.lark.nodes import node_size
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import (
    TEXT_LIMITS,
    build_engine,
    engine_error,
    first_mask_error,
    is_dead_end,
    without_forcing,
)
from dcmodel.constraints.regex_syntax import Node, RegexSyntaxError, parse_regex
from dcmodel.constraints.trial import check_in_child
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError, UnsupportedConstraintError
from dctokenizers import Tokenizer

MAX_CHEAP_SIZE = 20_000
"""Characters, repeats written out, up to which a pattern surely compiles in no time."""


class Regex(Constraint):
    """The whole text matches `pattern`, in the dialect of Rust's `regex` crate.

    Characters are Unicode, `.` is anything but a newline (`(?s:.)` is all), quantifiers may be lazy
    without effect, `^` and `$` change nothing at the ends. There is no look-around, no
    back-reference, no word boundary and no verbose mode.
    """

    kind = "regex"

    def __init__(self, pattern: str) -> None:
        if not isinstance(pattern, str):
            raise InvalidConstraintError(
                f"the pattern is {pattern!r}.", remedy="Give it as text, of a compiled one its `.pattern`."
            )
        self.pattern = pattern

    @property
    def key(self) -> Hashable:
        return (self.kind, self.pattern)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        node = _read(self.pattern)
        # A loop in a single regex always has a way out, the end of the text; a long one takes for ever.
        forcing = node is not None and forced_text(node).run <= MAX_RUN
        grammar = LLMatcher.grammar_from_regex(self.pattern)
        if not forcing:
            grammar = without_forcing(grammar)
        if node is None or node_size(node) > MAX_CHEAP_SIZE:
            check_in_child(grammar, what="regex")
        engine = build_engine(grammar, tokenizer, limits=TEXT_LIMITS)
        if message := engine_error(engine):
            raise _refusal(self.pattern, message)
        if (message := first_mask_error(engine, tokenizer)) and not is_dead_end(message):
            raise InvalidConstraintError(
                f"the regex is too complex: {message}.", remedy="Shorten it or its repeat counts."
            )
        if message:
            raise UnsatisfiableConstraintError(f"no text matches the regex {self.pattern[:80]!r}.")
        return LlgCompiled(engine, grammar, tokenizer, forcing=forcing, limits=TEXT_LIMITS)

    def terminal(self) -> str:
        return f"/{regex_to_lark(self.pattern, '')}/" if self.pattern else '""'

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "pattern": self.pattern}


def _read(pattern: str) -> Node | None:
    """The shape of the pattern; None where the engine shall say what is wrong with it."""
    try:
        return parse_regex(pattern)
    except RegexSyntaxError:
        return None
    except UnsupportedConstraintError as error:
        position = error.position or 0
        placed = UnsupportedConstraintError(
            with_caret(error.message, pattern, position), remedy=error.remedy, keyword=error.keyword
        )
        placed.position = position
        raise placed from None


def _refusal(pattern: str, message: str) -> InvalidConstraintError:
    reason = re.search(r"^error: (.*)$", message, re.MULTILINE)
    if reason is None:
        # `lookarounds not supported yet; Start in regex ...`: an anchor in the middle
        short = message.partition("(in regex): ")[2].partition(" in regex")[0] or message
        return UnsupportedConstraintError(
            f"the regex {pattern[:80]!r} cannot be used: {short}.",
            remedy="Anchors may only stand at the ends, where they change nothing.",
        )
    position = _position(pattern, message)
    return InvalidConstraintError(
        with_caret(
            f"the regex {pattern[:80]!r} is malformed at position {position}: {reason[1]}.",
            pattern,
            position,
        ),
        remedy="The dialect is that of Rust's `regex` crate.",
        position=position,
    )


def _position(pattern: str, message: str) -> int:
    """The offset in `pattern` of the caret in the engine's message, which shows an escaped form of it."""
    shown = message.partition("\nerror: ")[0]
    marks = re.search(r"^ {4}([ ^]*?)\^+$", shown, re.MULTILINE)
    column = len(marks[1]) if marks else 0
    end = next((n for n in range(len(pattern) + 1) if len(regex_to_lark(pattern[:n], "")) > column), None)
    return len(pattern) if end is None else end - 1
