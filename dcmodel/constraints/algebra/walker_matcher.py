"""A matcher made of a walker: all tokens of text pass its mask, and `advance` asks the walker."""

from __future__ import annotations

from collections.abc import Callable

from dcmodel.constraint import CompiledConstraint, MaskRow, Walker
from dcmodel.constraints.plain import PlainMatcher, row_of
from dcmodel.constraints.sorted_vocabulary import sorted_vocabulary
from dctokenizers import Tokenizer


class WalkerCompiled(CompiledConstraint):
    """A rule that is only known byte by byte, such as an exact check of JSON text."""

    def __init__(self, tokenizer: Tokenizer, make_walker: Callable[[], Walker]) -> None:
        self.tokenizer = tokenizer
        self._make_walker = make_walker
        self.text_row = text_row(tokenizer)
        self.open_row = self.text_row | row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)

    def walker(self) -> Walker:
        return self._make_walker()

    def matcher(self) -> WalkerMatcher:
        return WalkerMatcher(self)


def text_row(tokenizer: Tokenizer) -> MaskRow:
    """All tokens that stand for text and do not end it. A new row."""
    return sorted_vocabulary(tokenizer).text_row & ~row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)


class WalkerMatcher(PlainMatcher):
    """One sequence under a walker; one walker is kept for each token, for `rollback`."""

    __slots__ = ("_compiled", "_walkers")

    def __init__(self, compiled: WalkerCompiled) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._walkers = [compiled.walker()]

    def _allows(self, token_id: int) -> bool:
        if token_id in self._tokenizer.special_token_ids:
            return False
        text = self._tokenizer.token_bytes(token_id)
        twin = self._walkers[-1].fork()
        if twin.walk(text) < len(text):
            return False
        self._walkers.append(twin)
        return True

    def _popped(self, count: int) -> None:
        del self._walkers[-count:]

    def _fill(self, row: MaskRow) -> None:
        row[:] = self._compiled.open_row if self.is_accepting else self._compiled.text_row

    @property
    def is_exact(self) -> bool:
        return False

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or self._walkers[-1].is_accepting

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or (self.is_accepting and not self._walkers[-1].following())

    def fork(self) -> WalkerMatcher:
        twin = WalkerMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        twin._walkers = self._walkers.copy()
        return twin
