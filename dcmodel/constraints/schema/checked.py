"""A grammar that says too little, and an exact check beside it.

The mask is the grammar's. `advance` also moves the check, and refuses a token after which the text is
surely invalid. Beyond that a *witness* is looked for, a text that completes both: while the text goes
along with it nothing has to be searched, and where the search comes to its end without one the token is
refused. A search that runs out of steps decides nothing; then the next one waits for some tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dcmodel.constraint import CompiledConstraint, Explanation, MaskRow, Walker
from dcmodel.constraints.algebra.search import find_completion, move_over
from dcmodel.constraints.algebra.walkers import AndWalker
from dcmodel.constraints.explain import explain_from_mask, join_bytes, show
from dcmodel.constraints.llg import LlgCompiled, LlgMatcher
from dcmodel.constraints.plain import PlainMatcher, row_of
from dcmodel.constraints.schema.walker import SchemaCheck, SchemaWalker
from dcmodel.errors import DeadEndError, UnsatisfiableConstraintError
from dctokenizers import Tokenizer

FIRST_STEPS = 1_500
NEXT_STEPS = 300
"""Moves of a walker that a search may cost, at the beginning and after a token: some hundred and some ten
milliseconds."""
MAX_PAUSE = 64
BYTES_PER_WAIT = 32
"""A witness is tried on the whole text: for each so many bytes, one token more passes without."""
FILLERS = (b"", b'"', b"0", b'""', b'"a"', b"a", b"null", b"true", b"{}", b"[]", b": 0", b'": 0')
"""What may stand between the text and the signs that close it."""


@dataclass(frozen=True, slots=True)
class _State:
    """Where the text stands. Walkers are never moved in place, so states are shared freely."""

    check: SchemaWalker
    grammar: Walker
    pending: bytes = b""
    """Text that `grammar` has not been moved over yet."""
    witness: bytes | None = None
    wait: int = 0
    """Tokens until the next search."""
    last_wait: int = 0


class CheckedCompiled(CompiledConstraint):
    """A relaxed grammar and a check, for one vocabulary.

    Raises `UnsatisfiableConstraintError` where surely no text satisfies both.
    """

    def __init__(self, grammar: LlgCompiled, check: SchemaCheck, tokenizer: Tokenizer) -> None:
        self.grammar = grammar
        self.check = check
        self.tokenizer = tokenizer
        self.end_row = row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)
        walkers = (grammar.walker(), check.walker())
        found = find_completion(walkers, steps=FIRST_STEPS)
        if found.completion is None and found.is_exhaustive:
            raise UnsatisfiableConstraintError("no JSON value is valid under the schema.")
        self.first = _State(check.walker(), walkers[0], witness=found.completion)

    def matcher(self) -> CheckedMatcher:
        return CheckedMatcher(self, self.grammar.matcher(), [self.first])

    def walker(self) -> Walker:
        return AndWalker([self.grammar.walker(), self.check.walker()])


class CheckedMatcher(PlainMatcher):
    """One sequence under a `CheckedCompiled`."""

    __slots__ = ("_compiled", "_grammar", "_states")

    def __init__(self, compiled: CheckedCompiled, grammar: LlgMatcher, states: list[_State]) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._grammar = grammar
        self._states = states

    def _fill(self, row: MaskRow) -> None:
        self._grammar.fill_mask(row)
        if not self.is_accepting:
            row &= ~self._compiled.end_row
            if not np.any(row):
                text = show(join_bytes(self._tokenizer, self._token_ids), tail=True)
                raise DeadEndError(f"the JSON schema allows no token after {text}.")

    def forced(self) -> list[int]:
        if self._ends or not (forced := self._grammar.forced()):
            return []
        return forced[: self.fork().advance(forced)]

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or (self._grammar.is_accepting and self._states[-1].check.is_accepting)

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or (self._grammar.is_finished and self.is_accepting)

    @property
    def is_exact(self) -> bool:
        return False

    @property
    def may_dead_end(self) -> bool:
        return True

    def fork(self) -> CheckedMatcher:
        twin = CheckedMatcher(self._compiled, self._grammar.fork(), self._states.copy())
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        return twin

    def _popped(self, count: int) -> None:
        self._grammar.rollback(count)
        del self._states[-count:]

    def explain(self, token_id: int) -> Explanation:
        tokenizer = self._compiled.tokenizer
        text = join_bytes(tokenizer, self._token_ids)
        walker = self._compiled.walker
        explanation = explain_from_mask(self, tokenizer, token_id, text, walker=walker)
        if not explanation.allowed or self.fork().advance([token_id]):
            return explanation
        reason = f"after {show(text, tail=True)} it would make the text invalid under the JSON schema."
        return Explanation(token_id, False, reason)

    def _allows(self, token_id: int) -> bool:
        """Moves grammar and check, if both take the token."""
        if not self._grammar.advance([token_id]):
            return False
        text = self._compiled.tokenizer.token_bytes(token_id)
        state = self._states[-1]
        check = state.check.fork()
        after = _after(state, check, text) if check.walk(text) == len(text) else None
        if after is None:
            self._grammar.rollback(1)
            return False
        self._states.append(after)
        return True


def _after(state: _State, check: SchemaWalker, text: bytes) -> _State | None:
    """The state after `text`, which grammar and check accept; None where it surely cannot be completed."""
    pending = state.pending + text
    if state.witness is not None and state.witness.startswith(text):
        return _State(check, state.grammar, pending, state.witness[len(text) :], max(state.wait - 1, 0))
    if state.wait:
        return _State(check, state.grammar, pending, None, state.wait - 1, state.last_wait)
    moved = move_over((state.grammar,), pending)
    assert moved is not None, "the matcher of the same grammar accepted it"
    walkers = (*moved, check)
    pause = min(check.size // BYTES_PER_WAIT, MAX_PAUSE)
    for guess in _guesses(state.witness, check):
        there = move_over(walkers, guess)
        if there is not None and all(walker.is_accepting for walker in there):
            return _State(check, moved[0], witness=guess, wait=pause)
    found = find_completion(walkers, steps=NEXT_STEPS)
    if found.completion is None and found.is_exhaustive:
        return None
    wait = pause if found.completion is not None else 2 * state.last_wait + 1
    return _State(check, moved[0], witness=found.completion, wait=wait, last_wait=wait)


def _guesses(witness: bytes | None, check: SchemaWalker) -> Iterator[bytes]:
    """Texts that may complete this one: the last witness's end, and what closes all that is open."""
    if witness is not None:
        yield from (witness[start:] for start in range(min(len(witness), 8)))
    closing = check.closing()
    yield from (filler + closing for filler in FILLERS)
