"""Matchers over `llguidance.LLMatcher`, with guards for what it does in silence.

An engine in an error state gives a mask of nothing but end-of-sequence, and stays in that state for
ever; so the state is tested after each call, and a matcher that met an error is built again from its
tokens. End-of-sequence tokens never reach the engine: they are counted here, so rollback is exact.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import addressof, c_char

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from dcmodel.constraint import CompiledConstraint, Explanation, MaskRow, Matcher
from dcmodel.constraints.explain import dead_end_message, explain_from_mask, join_bytes, show
from dcmodel.constraints.llg_engine import build_engine, engine_error, first_mask_error, is_dead_end
from dcmodel.constraints.llg_walker import LlgWalker, build_byte_engine
from dcmodel.constraints.plain import no_end_token, row_of
from dcmodel.errors import ConstraintRuntimeError, DeadEndError
from dcmodel.mask import mask_words
from dctokenizers import Tokenizer


class LlgCompiled(CompiledConstraint):
    """An engine at the beginning of the text, which is copied for each sequence and never moved."""

    def __init__(
        self,
        engine: LLMatcher,
        grammar: str,
        tokenizer: Tokenizer,
        *,
        forcing: bool = True,
        stops_late: bool = False,
        limits: LLParserLimits | None = None,
    ) -> None:
        """`engine` is what `build_engine` made of `grammar` with these `limits`.

        `stops_late`: with `&` and `~` the engine sees only in a mask that nothing can follow.
        """
        self.stops_late = stops_late
        self.engine = engine
        self.tokenizer = tokenizer
        self.forcing = forcing
        self.vocab_size = tokenizer.vocab_size
        self.words = mask_words(self.vocab_size)
        self.eos_token_ids = frozenset(tokenizer.eos_token_ids)
        self.end_row = row_of(self.eos_token_ids, self.vocab_size)
        # Where a vocabulary has no end, the engine was given a token that plays it.
        self.stand_ins = () if self.eos_token_ids else tuple(tokenizer.ll_tokenizer().eos_tokens)
        # The engine finds out that a match is complete when it has consumed a token, not before.
        self.is_empty = engine.is_accepting() and self._allows_end_only()
        self.grammar = grammar
        self._limits = limits
        self._lock = threading.Lock()
        self._byte_engine: LLMatcher | None = None

    def matcher(self) -> LlgMatcher:
        engine = self.engine
        return LlgMatcher(self, engine, engine.deep_copy(), [])

    def walker(self) -> LlgWalker:
        if self._byte_engine is None:
            self._byte_engine = build_byte_engine(self.grammar)
        return LlgWalker(self._byte_engine.deep_copy())

    def renew(self, engine: LLMatcher) -> bool:
        """Replace `engine` if the lexer that it shares with its copies is broken; whether it was.

        A text that exhausts the lexer breaks it for all copies, those of other requests too.
        """
        with self._lock:
            if self.engine is engine and first_mask_error(engine, self.tokenizer):
                fresh = build_engine(self.grammar, self.tokenizer, limits=self._limits)
                if not first_mask_error(fresh, self.tokenizer):
                    self.engine = fresh
            return self.engine is not engine

    def _allows_end_only(self) -> bool:
        row = np.zeros(self.words, dtype=np.int32)
        self.engine.deep_copy().unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        ends = row_of(self.stand_ins or self.eos_token_ids, self.vocab_size)
        return bool((row == ends).all())


class LlgMatcher(Matcher):
    """One sequence under an `LlgCompiled`.

    After an end-of-sequence token only further ones are allowed. Copies share the lexer's cache and
    its lock, so forks are warm, and wait for one another when their masks are computed in parallel.
    """

    __slots__ = (
        "_address",
        "_compiled",
        "_ends",
        "_engine",
        "_is_careful",
        "_is_fueled",
        "_is_mended",
        "_nbytes",
        "_origin",
        "_row",
        "_token_ids",
    )

    def __init__(
        self, compiled: LlgCompiled, origin: LLMatcher, engine: LLMatcher, token_ids: list[int], ends: int = 0
    ) -> None:
        self._compiled = compiled
        self._origin = origin
        self._engine = engine
        self._token_ids = token_ids
        self._ends = ends
        self._nbytes = compiled.words * 4
        # The row of the last mask, where it lies, and whether the engine does not write all of it.
        self._row: MaskRow | None = None
        self._address, self._is_mended = 0, False
        # Whether a mask was computed for this state: only then a refusal is sure to be one.
        self._is_fueled = False
        # After the lexer broke, a mask is computed before each token.
        self._is_careful = False

    def fill_mask(self, row: MaskRow) -> None:
        if self._ends:
            words = self._compiled.words
            row[:words], row[words:] = self._compiled.end_row, 0
            return
        if row is not self._row:
            self._aim(row)
        engine = self._engine
        engine.unsafe_compute_mask_ptr(self._address, self._nbytes)
        if engine.is_error():
            self._compute_again(row)
        self._is_fueled = True
        if self._is_mended:
            self._mend(row)

    def advance(self, token_ids: Sequence[int]) -> int:
        compiled = self._compiled
        # The quick way for one token of text.
        if len(token_ids) == 1 and not self._ends and not self._is_careful:
            token_id = token_ids[0]
            if (
                token_id not in compiled.eos_token_ids
                and 0 <= token_id < compiled.vocab_size
                and self._engine.try_consume_tokens([token_id])
            ):
                self._token_ids.append(token_id)
                self._is_fueled = False
                return 1
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
            self._recover()
            return []
        for index, token_id in enumerate(token_ids):
            if token_id in self._compiled.eos_token_ids:
                return token_ids[:index]
        return token_ids

    @property
    def lock_key(self) -> object:
        """Matchers with the same key compute their masks under one lock, the lexer's."""
        return self._compiled

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or self._engine.is_accepting()

    @property
    def is_finished(self) -> bool:
        if self._ends or (self._engine.is_stopped() and self._engine.is_accepting()):
            return True
        if self._compiled.is_empty and not self._token_ids:
            return True
        return self._compiled.stops_late and self._engine.is_accepting() and self._allows_end_only()

    def _allows_end_only(self) -> bool:
        row = np.empty(self._compiled.words, dtype=np.int32)
        try:
            self.fill_mask(row)
        except DeadEndError:  # no token can end it
            return True
        return bool((row == self._compiled.end_row).all())

    def fork(self) -> LlgMatcher:
        twin = LlgMatcher(
            self._compiled, self._origin, self._engine.deep_copy(), self._token_ids.copy(), self._ends
        )
        twin._is_fueled, twin._is_careful = self._is_fueled, self._is_careful
        return twin

    def rollback(self, count: int) -> None:
        if not 0 <= count <= len(self._token_ids) + self._ends:
            raise ValueError(f"cannot take back {count} of {len(self._token_ids) + self._ends} tokens")
        ends = min(count, self._ends)
        self._ends -= ends
        count -= ends
        if count:
            del self._token_ids[-count:]
            self._is_fueled = False
            if not self._engine.rollback(count):
                self._replay()

    def explain(self, token_id: int) -> Explanation:
        tokenizer = self._compiled.tokenizer
        text = join_bytes(tokenizer, self._token_ids)
        detail = "The text has ended." if self._ends else ""
        if not detail and (forced := self.forced()) and self.fork().advance([token_id]):
            coming = join_bytes(tokenizer, forced)
            detail = f"The text {show(coming)} must come next, in its usual tokens."
        return explain_from_mask(self, tokenizer, token_id, text, detail=detail, walker=self._compiled.walker)

    def _aim(self, row: MaskRow) -> None:
        """Find out where `row` lies; the scheduler gives the same one for many tokens."""
        words = self._compiled.words
        if row.nbytes < self._nbytes:
            raise ValueError(f"a mask row needs {words} int32 words, not {row.shape}")
        # Quicker than `row.ctypes.data`, and a TypeError where the row is not contiguous.
        self._address = addressof(c_char.from_buffer(row))  # type: ignore[arg-type]  # a buffer for typeshed from 3.12
        self._row = row
        self._is_mended = row.shape[0] > words or bool(self._compiled.stand_ins)

    def _mend(self, row: MaskRow) -> None:
        """Take out the tokens that play the end, and clear what lies past the vocabulary."""
        compiled = self._compiled
        row[compiled.words :] = 0
        if compiled.stand_ins:
            row[: compiled.words] &= ~row_of(compiled.stand_ins, compiled.vocab_size)
            if not row.any():
                raise no_end_token()

    def _consume(self, text: list[int]) -> int:
        taken = 0
        while taken < len(text):
            if self._is_careful and not self._is_fueled and not self._refuel():
                break
            rest = text[taken : taken + 1 if self._is_careful else None]
            count = self._engine.try_consume_tokens(rest)
            taken += count
            if count:
                self._token_ids += rest[:count]
                self._is_fueled = False
            if self._engine.is_error():
                raise self._recover()[0]
            if count < len(rest) and (self._is_fueled or not self._refuel()):
                break
        return taken

    def _refuel(self) -> bool:
        """Compute a mask for its effect on the engine's budget; False where nothing can follow.

        A text that is consumed without masks lives on one budget, and a valid token looks refused
        when it runs out.
        """
        row = np.empty(self._compiled.words, dtype=np.int32)
        self._engine.unsafe_compute_mask_ptr(row.ctypes.data, self._nbytes)
        if self._engine.is_error():
            try:
                self._compute_again(row)
            except DeadEndError:
                return False
        self._is_fueled = True
        return True

    def _compute_again(self, row: MaskRow) -> None:
        """After an error: the mask of a new engine, if another text broke the old one; else raise."""
        error, is_renewed = self._recover()
        if not is_renewed:
            raise error
        self._engine.unsafe_compute_mask_ptr(row.ctypes.data, self._nbytes)
        if self._engine.is_error():
            raise self._recover()[0]

    def _recover(self) -> tuple[DeadEndError | ConstraintRuntimeError, bool]:
        """Build the engine again after an error, in the state before it.

        Returns what to raise, and whether the engine has a new lexer, so that it may be asked again.
        """
        message = engine_error(self._engine)
        is_renewed = not is_dead_end(message) and self._compiled.renew(self._origin)
        self._origin = self._compiled.engine
        self._is_careful = self._is_careful or is_renewed
        self._replay()
        if is_dead_end(message):
            text = join_bytes(self._compiled.tokenizer, self._token_ids)
            error = DeadEndError(
                dead_end_message(self._compiled.walker, text),
                remedy="A part of it cannot match anything; see that every rule and terminal has a match.",
            )
            return error, False
        return ConstraintRuntimeError(
            f"the mask engine gave up: {message}.", remedy="Write the constraint in a simpler way."
        ), is_renewed

    def _replay(self) -> None:
        self._engine = self._origin.deep_copy()
        row = np.empty(self._compiled.words, dtype=np.int32)
        step = 1 if self._is_careful else len(self._token_ids) or 1
        for start in range(0, len(self._token_ids), step):
            if self._is_careful:
                self._engine.unsafe_compute_mask_ptr(row.ctypes.data, self._nbytes)
            part = self._token_ids[start : start + step]
            if self._engine.try_consume_tokens(part) < len(part):
                raise ConstraintRuntimeError(
                    f"the mask engine refused tokens that it had accepted: {engine_error(self._engine)}."
                )
        self._is_fueled = False
