"""Matchers over `llguidance.LLMatcher`, with guards for what it does in silence.

An engine in an error state gives a mask of nothing but end-of-sequence, and stays in that state for
ever; so the state is tested after each call, and a matcher that met an error is built again from its
tokens. End-of-sequence tokens never reach the engine: they are counted here, so rollback is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from dcmodel.constraint import CompiledConstraint, Explanation, MaskRow, Matcher
from dcmodel.constraints.explain import explain_from_mask, join_bytes, show
from dcmodel.constraints.plain import no_end_token
from dcmodel.errors import ConstraintRuntimeError, DeadEndError
from dcmodel.mask import BITS, mask_words, row_from_ids
from dctokenizers import Tokenizer

# With the engine's own limits a valid text looks rejected when it is replayed without masks.
LIMITS = LLParserLimits(initial_lexer_fuel=10**8, step_lexer_fuel=10**8)
NO_FORCING = '%llguidance {"no_forcing": true}'


def build_engine(grammar: str, tokenizer: Tokenizer, *, limits: LLParserLimits = LIMITS) -> LLMatcher:
    """An engine at the beginning of the text; a bad grammar shows in `engine_error`."""
    return LLMatcher(tokenizer.ll_tokenizer(), grammar, log_level=0, limits=limits)


def engine_error(engine: LLMatcher) -> str:
    """The engine's message without the dump of its state; empty where there is no error."""
    return engine.get_error().partition("\n<state>")[0].strip()


def first_mask_error(engine: LLMatcher, tokenizer: Tokenizer) -> str:
    """What goes wrong in the first mask, on a copy; what is computed stays in the shared lexer's cache."""
    probe = engine.deep_copy()
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    probe.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
    return engine_error(probe)


def is_dead_end(message: str) -> bool:
    """Whether the engine's message says that no text can follow."""
    return message.startswith("NoExtensionBias")


class LlgCompiled(CompiledConstraint):
    """An engine at the beginning of the text, which is copied for each sequence and never moved."""

    def __init__(self, engine: LLMatcher, tokenizer: Tokenizer, *, forcing: bool = True) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.forcing = forcing
        self.vocab_size = tokenizer.vocab_size
        self.words = mask_words(self.vocab_size)
        self.eos_token_ids = frozenset(tokenizer.eos_token_ids)
        self.end_row = np.zeros(self.words, dtype=np.int32)
        row_from_ids(self.eos_token_ids, self.vocab_size, self.end_row)
        # Where a vocabulary has no end, the engine was given a token that plays it.
        self.stand_ins = () if self.eos_token_ids else tuple(tokenizer.ll_tokenizer().eos_tokens)
        # The engine finds out that a match is complete when it has consumed a token, not before.
        self.is_empty = engine.is_accepting() and self._allows_end_only()

    def _allows_end_only(self) -> bool:
        probe = self.engine.deep_copy()
        row = np.zeros(self.words, dtype=np.int32)
        probe.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        end_row = np.zeros_like(row)
        row_from_ids(self.stand_ins or self.eos_token_ids, self.vocab_size, end_row)
        return bool((row == end_row).all())

    def matcher(self) -> LlgMatcher:
        return LlgMatcher(self, self.engine.deep_copy(), [])


class LlgMatcher(Matcher):
    """One sequence under an `LlgCompiled`.

    After an end-of-sequence token only further ones are allowed. Copies share the lexer's cache and
    its lock, so forks are warm, and wait for one another when their masks are computed in parallel.
    """

    __slots__ = ("_compiled", "_ends", "_engine", "_nbytes", "_since_mask", "_token_ids")

    def __init__(self, compiled: LlgCompiled, engine: LLMatcher, token_ids: list[int], ends: int = 0) -> None:
        self._compiled = compiled
        self._engine = engine
        self._token_ids = token_ids
        self._ends = ends
        self._nbytes = compiled.words * 4
        self._since_mask = len(token_ids)

    def fill_mask(self, row: MaskRow) -> None:
        words = self._compiled.words
        if self._ends:
            row[:words] = self._compiled.end_row
        else:
            if row.nbytes < self._nbytes or not row.flags.c_contiguous:
                raise ValueError(f"a mask row needs {words} contiguous int32 words, not {row.shape}")
            self._engine.unsafe_compute_mask_ptr(row.ctypes.data, self._nbytes)
            if self._engine.is_error():
                raise self._recover()
            self._since_mask = 0
            if self._compiled.stand_ins:
                self._clear_stand_ins(row)
        if row.shape[0] > words:
            row[words:] = 0

    def advance(self, token_ids: Sequence[int]) -> int:
        compiled = self._compiled
        text = []
        for token_id in token_ids:
            if token_id in compiled.eos_token_ids or not 0 <= token_id < compiled.vocab_size:
                break
            text.append(token_id)
        if text:
            taken = 0 if self._ends else self._consume(text)
            if taken < len(text):
                return taken
        taken = len(text)
        while taken < len(token_ids) and token_ids[taken] in compiled.eos_token_ids and self.is_accepting:
            self._ends += 1
            taken += 1
        return taken

    def forced(self) -> list[int]:
        if self._ends or not self._compiled.forcing:
            return []
        token_ids = self._engine.compute_ff_tokens()
        if self._engine.is_error():
            raise self._recover()
        for index, token_id in enumerate(token_ids):
            if token_id in self._compiled.eos_token_ids:
                return token_ids[:index]
        return token_ids

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or self._engine.is_accepting()

    @property
    def is_finished(self) -> bool:
        if self._ends or (self._engine.is_stopped() and self._engine.is_accepting()):
            return True
        return self._compiled.is_empty and not self._token_ids

    def fork(self) -> LlgMatcher:
        return LlgMatcher(self._compiled, self._engine.deep_copy(), self._token_ids.copy(), self._ends)

    def rollback(self, count: int) -> None:
        if not 0 <= count <= len(self._token_ids) + self._ends:
            raise ValueError(f"cannot take back {count} of {len(self._token_ids) + self._ends} tokens")
        ends = min(count, self._ends)
        self._ends -= ends
        count -= ends
        if count:
            del self._token_ids[-count:]
            self._since_mask = len(self._token_ids)
            if not self._engine.rollback(count):
                self._replay()

    def explain(self, token_id: int) -> Explanation:
        tokenizer = self._compiled.tokenizer
        text = join_bytes(tokenizer, self._token_ids)
        detail = "The text has ended." if self._ends else ""
        if not detail and (forced := self.forced()) and self.fork().advance([token_id]):
            coming = join_bytes(tokenizer, forced)
            detail = f"The text {show(coming)} must come next, in its usual tokens."
        return explain_from_mask(self, tokenizer, token_id, text, detail=detail)

    def _clear_stand_ins(self, row: MaskRow) -> None:
        words = self._compiled.words
        for token_id in self._compiled.stand_ins:
            row[token_id // BITS] &= ~np.int32(1 << (token_id % BITS) if token_id % BITS < 31 else -(2**31))
        if not row[:words].any():
            raise no_end_token()

    def _consume(self, text: list[int]) -> int:
        taken = self._engine.try_consume_tokens(text)
        self._token_ids += text if taken == len(text) else text[:taken]
        self._since_mask += taken
        if self._engine.is_error():
            raise self._recover()
        if taken < len(text) and self._since_mask and self._refuel():
            return taken + self._consume(text[taken:])
        return taken

    def _refuel(self) -> bool:
        """Compute a mask for its side effect on the engine's budget; False where nothing can follow.

        A text that is consumed without masks lives on one budget, and a valid token looks refused
        when it runs out.
        """
        row = np.empty(self._compiled.words, dtype=np.int32)
        self._engine.unsafe_compute_mask_ptr(row.ctypes.data, self._nbytes)
        self._since_mask = 0
        if not self._engine.is_error():
            return True
        error = self._recover()
        if isinstance(error, DeadEndError):
            return False
        raise error

    def _recover(self) -> DeadEndError | ConstraintRuntimeError:
        """Build the engine again after an error, in the state before it; return what to raise."""
        message = engine_error(self._engine)
        self._replay()
        if is_dead_end(message):
            text = show(join_bytes(self._compiled.tokenizer, self._token_ids), tail=True)
            return DeadEndError(
                f"the constraint allows no token after {text}.",
                remedy="A part of it cannot match anything; see that every rule and terminal has a match.",
            )
        return ConstraintRuntimeError(
            f"the mask engine gave up: {message}.", remedy="Write the constraint in a simpler way."
        )

    def _replay(self) -> None:
        self._engine = self._compiled.engine.deep_copy()
        self._since_mask = len(self._token_ids)
        if self._token_ids and self._engine.try_consume_tokens(self._token_ids) < len(self._token_ids):
            raise ConstraintRuntimeError(
                f"the mask engine refused tokens that it had accepted: {engine_error(self._engine)}."
            )
