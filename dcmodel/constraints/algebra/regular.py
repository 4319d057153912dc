"""Rules that are regular, as one terminal of the mask engine: `&`, `|`, `~` and `+` are exact inside it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import (
    NO_FORCING,
    build_engine,
    engine_error,
    first_mask_error,
    is_dead_end,
)
from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.errors import InvalidConstraintError, UnsatisfiableConstraintError
from dctokenizers import Tokenizer

ANY_TEXT = "/(?s:.*)/"


def all_of(terminals: list[str]) -> str:
    return f"({' & '.join(terminals)})"


def one_of(terminals: list[str]) -> str:
    return f"({' | '.join(terminals)})"


def one_after_the_other(terminals: list[str]) -> str:
    return f"({' '.join(terminals)})"


def none_of(terminal: str) -> str:
    """Any text that is not one of the terminal; a bare complement would also match broken UTF-8."""
    return f"(~{terminal} & {ANY_TEXT})"


def containing(phrases: Iterable[str]) -> str:
    """Any text in which one of the phrases appears."""
    return f"({ANY_TEXT} {one_of([json.dumps(phrase) for phrase in phrases])} {ANY_TEXT})"


def terminal_grammar(terminal: str, *, forcing: bool) -> str:
    """A grammar of this terminal alone."""
    return f"start: TEXT\nTEXT: {terminal}\n" + ("" if forcing else NO_FORCING)


def compile_terminal(terminal: str, tokenizer: Tokenizer, *, label: str, forcing: bool) -> LlgCompiled:
    """The compiled form of one terminal.

    `label` names the rule in errors; `forcing`: it surely forces no more than a bounded text.
    """
    grammar = terminal_grammar(terminal, forcing=forcing)
    engine = build_engine(grammar, tokenizer)
    if message := engine_error(engine):
        raise InvalidConstraintError(f"{label} cannot be compiled: {message}.")
    if message := first_mask_error(engine, tokenizer):
        if is_dead_end(message):
            raise UnsatisfiableConstraintError(
                f"no text satisfies {label}.", remedy="Drop or widen one of its parts."
            )
        raise InvalidConstraintError(
            f"{label} is too complex: {message}.", remedy="Shorten its parts or their repeat counts."
        )
    return LlgCompiled(engine, grammar, tokenizer, forcing=forcing, stops_late=True)


def is_empty_terminal(terminal: str) -> bool:
    """Whether a terminal matches nothing at all."""
    walker = LlgWalker(build_byte_engine(terminal_grammar(terminal, forcing=False)))
    return not walker.following() and not walker.is_accepting
