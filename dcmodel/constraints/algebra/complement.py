"""Any tokens but those that a rule about tokens accepts."""

from __future__ import annotations

from dcmodel.constraint import CompiledConstraint, MaskRow, Matcher
from dcmodel.constraints.algebra.walker_matcher import text_row
from dcmodel.constraints.plain import PlainMatcher, row_of
from dctokenizers import Tokenizer


class TokenComplement(CompiledConstraint):
    """The complement of a compiled rule about tokens; rules about text have an exact one (`NotWalker`)."""

    def __init__(self, part: CompiledConstraint, tokenizer: Tokenizer) -> None:
        self.part = part
        self.tokenizer = tokenizer
        self.text_row = text_row(tokenizer)
        self.open_row = self.text_row | row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)

    def matcher(self) -> TokenComplementMatcher:
        return TokenComplementMatcher(self, self.part.matcher())


class TokenComplementMatcher(PlainMatcher):
    """One sequence; the part's matcher stays where the sequence left its rule."""

    __slots__ = ("_compiled", "_part", "_taken")

    def __init__(self, compiled: TokenComplement, part: Matcher) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._part = part
        self._taken = 0

    def _allows(self, token_id: int) -> bool:
        return token_id not in self._tokenizer.special_token_ids

    def _pushed(self, token_id: int) -> None:
        if self._taken == len(self._token_ids) - 1:
            self._taken += self._part.advance([token_id])

    def _popped(self, count: int) -> None:
        if self._taken > len(self._token_ids):
            self._part.rollback(self._taken - len(self._token_ids))
            self._taken = len(self._token_ids)

    def _fill(self, row: MaskRow) -> None:
        row[:] = self._compiled.open_row if self.is_accepting else self._compiled.text_row

    @property
    def is_accepting(self) -> bool:
        left = self._taken < len(self._token_ids)
        return self._ends > 0 or left or not self._part.is_accepting

    @property
    def is_finished(self) -> bool:
        return self._ends > 0

    @property
    def may_dead_end(self) -> bool:
        return self._taken == len(self._token_ids)

    def fork(self) -> TokenComplementMatcher:
        twin = TokenComplementMatcher(self._compiled, self._part.fork())
        twin._token_ids, twin._ends, twin._taken = self._token_ids.copy(), self._ends, self._taken
        return twin
