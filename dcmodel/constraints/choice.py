"""Exactly one of a list of texts."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from dcmodel.constraint import CompiledConstraint, Constraint
from dcmodel.constraints.checked_texts import check_unicode
from dcmodel.constraints.choice_matcher import ChoiceCompiled
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import NO_FORCING, build_engine, engine_error
from dcmodel.errors import InvalidConstraintError
from dctokenizers import Tokenizer

MAX_FORCED_CHARACTERS = 10_000
MAX_ENGINE_OPTIONS = 1_000
"""More options have a matcher of their own, which is ready sooner and needs no automaton."""


class Choice(Constraint):
    """One of `options`, which may be prefixes of each other: the end of the text then decides.

    Any number of options; an empty text is one like another. Raises `InvalidConstraintError` for an
    empty list, an option that occurs twice, and one that is not text.
    """

    kind = "choice"

    def __init__(self, options: Sequence[str]) -> None:
        if isinstance(options, str):
            raise InvalidConstraintError(
                f"the options are one text, {options[:40]!r}.", remedy="Give a list of texts."
            )
        self.options = tuple(options)
        if not self.options:
            raise InvalidConstraintError("there are no options.", remedy="Give at least one.")
        seen: set[str] = set()
        for option in self.options:
            _check_option(option, seen)

    @property
    def key(self) -> Hashable:
        return (self.kind, self.options)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        if len(self.options) > MAX_ENGINE_OPTIONS:
            return ChoiceCompiled(self.options, tokenizer)
        # One terminal: a rule dies at 2,000 alternatives, and a terminal is exact about prefixes.
        lines = ["start: OPTION", f"OPTION: {self.terminal()}"]
        forcing = max(map(len, self.options)) <= MAX_FORCED_CHARACTERS
        if not forcing:
            lines.append(NO_FORCING)
        grammar = "\n".join(lines)
        engine = build_engine(grammar, tokenizer)
        if message := engine_error(engine):
            raise InvalidConstraintError(f"the options cannot be compiled: {message}.")
        return LlgCompiled(engine, grammar, tokenizer, forcing=forcing)

    def terminal(self) -> str:
        return f"({' | '.join(map(json.dumps, self.options))})"

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "options": list(self.options)}


def _check_option(option: object, seen: set[str]) -> None:
    if not isinstance(option, str):
        raise InvalidConstraintError(f"an option is {option!r}.", remedy="Give texts.")
    if option in seen:
        raise InvalidConstraintError(f"the option {option[:40]!r} occurs twice.", remedy="Remove one.")
    check_unicode(option, what="option")
    seen.add(option)
