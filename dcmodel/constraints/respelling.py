"""The ways to spell a healed text, and the tokens that lie across its end."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import CompiledConstraint, MaskRow
from dcmodel.constraints.canonical import CanonicalPairs
from dcmodel.constraints.plain import row_of
from dcmodel.constraints.sorted_vocabulary import Positions, SortedVocabulary, sorted_vocabulary
from dcmodel.errors import DeadEndError
from dcmodel.mask import mask_words, row_to_bools
from dctokenizers import Tokenizer, TokenizerError

MAX_CHECKED = 1_000
"""Tokens across the border that are tried one by one; of more, the refused ones are drawn and refused."""
MAX_NEIGHBOURS = 64
"""Tokens that are asked about, to know whether a shorter token can be part of a usual spelling."""
SHORT = 2
"""Of texts of so many bytes, what follows them in tokens is kept for all requests."""


class HealedText:
    """A text that comes again, before a rule or before anything. Shared between threads.

    A token that stops short of the text's end is allowed where the tokenizer would put it before one
    that goes on from there, as the rule allows: the model gives ` ` a good chance wherever ` 5` may
    follow, and with the mask of ` =` it would end up with ` ` and `=`, which it has never seen together.
    """

    def __init__(
        self, prefix: bytes, tokenizer: Tokenizer, inner: CompiledConstraint | None, pairs: CanonicalPairs
    ) -> None:
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._inner = inner
        self._pairs = pairs
        self._vocabulary = sorted_vocabulary(tokenizer)
        self._rows: dict[int, tuple[MaskRow, bool]] = {}
        self._viable: dict[tuple[int, int], bool] = {}

    def row(self, done: int) -> MaskRow:
        """The mask after `done` bytes of the text. Read-only."""
        return self._made(done)[0]

    def is_exact(self, done: int) -> bool:
        """Whether every token of `row` leaves the rule a way on, as far as the border is concerned."""
        return self._made(done)[1]

    def way_out(self, done: int) -> int | None:
        """The first token of the usual spelling of what is left; none where there is no such spelling."""
        rest = self._prefix[done:]
        try:
            token_ids = self._tokenizer.encode_bytes(rest)
        except TokenizerError:
            token_ids = self.spelled(rest)
        if token_ids and self._tokenizer.decode_bytes(token_ids, skip_special=False) == rest:
            return token_ids[0]
        return None

    def token(self, token_id: int) -> bytes | None:
        """The bytes of a token that stands for text."""
        tokenizer = self._tokenizer
        if not 0 <= token_id < tokenizer.vocab_size or token_id in tokenizer.eos_token_ids:
            return None
        return None if token_id in tokenizer.special_token_ids else tokenizer.token_bytes(token_id) or None

    def spelled(self, text: bytes) -> list[int]:
        """Tokens of `text`, the longest ones first; none where there are no such tokens."""
        token_ids: list[int] = []
        while text:
            head = _head(self._vocabulary, text)
            if head < 0:
                return []
            token_ids.append(head)
            text = text[len(self._tokenizer.token_bytes(head)) :]
        return token_ids

    def _made(self, done: int) -> tuple[MaskRow, bool]:
        made = self._rows.get(done)
        if made is None:
            made = self._rows[done] = self._make(done)
        return made

    def _make(self, done: int) -> tuple[MaskRow, bool]:
        across, is_exact = self._across(done)
        row = self._vocabulary.row(np.concatenate([across, self._shorter(done)]))
        row &= ~row_of(self._tokenizer.eos_token_ids, self._tokenizer.vocab_size)
        row.flags.writeable = False
        return row, is_exact

    def _across(self, done: int) -> tuple[Positions, bool]:
        """The tokens that reach the end of the text, and go on as the rule allows; whether that is sure."""
        rest = self._prefix[done:]
        low, high = self._vocabulary.beginning_with(rest)
        positions = np.arange(low, high, dtype=np.int64)
        if self._inner is None or low == high:
            return positions, True
        heads = self._heads(rest, low, high)
        matcher = self._inner.matcher()
        mask = np.zeros(mask_words(self._tokenizer.vocab_size), dtype=np.int32)
        try:
            matcher.fill_mask(mask)
        except DeadEndError:
            mask[:] = 0
        ends = self._vocabulary.lengths[low:high] == len(rest)
        allowed = row_to_bools(mask, self._tokenizer.vocab_size)
        # A text is allowed only if the longest token that it begins with is.
        likely = ends | ((heads >= 0) & allowed[heads])
        heads_end = len(rest) + self._lengths_by_id[heads]
        doubtful = np.nonzero(likely & ~ends & (heads_end < self._vocabulary.lengths[low:high]))[0]
        if len(doubtful) > MAX_CHECKED:
            return positions[likely], False
        for place in doubtful.tolist():
            token_ids = self.spelled(self._vocabulary.tokens[low + place][len(rest) :])
            taken = matcher.advance(token_ids)
            matcher.rollback(taken)
            likely[place] = taken == len(token_ids) > 0
        return positions[likely], True

    @cached_property
    def _lengths_by_id(self) -> NDArray[np.int64]:
        lengths = np.zeros(self._tokenizer.vocab_size, dtype=np.int64)
        lengths[self._vocabulary.ids] = self._vocabulary.lengths
        return lengths

    def _heads(self, rest: bytes, low: int, high: int) -> NDArray[np.int64]:
        """For each token from `low` to `high`: the longest token that begins what it has after `rest`."""
        vocabulary = self._vocabulary

        def make() -> NDArray[np.int64]:
            texts = vocabulary.tokens[low:high]
            heads = (_head(vocabulary, text[len(rest) :]) for text in texts)
            return np.fromiter(heads, dtype=np.int64, count=high - low)

        return vocabulary.derive(("heads", rest), make) if len(rest) <= SHORT else make()

    def _shorter(self, done: int) -> Positions:
        """The tokens that stop short of the text's end."""
        vocabulary = self._vocabulary
        rest = self._prefix[done:]
        way_out = self.way_out(done)
        positions: list[int] = []
        for length in range(1, len(rest)):
            token_ids = vocabulary.ids_of.get(rest[:length], ())
            if token_ids and (way_out in token_ids or self._is_viable(done, length)):
                low, _ = vocabulary.beginning_with(rest[:length])
                positions += range(low, low + len(token_ids))
        return np.array(positions, dtype=np.int64)

    def _is_viable(self, done: int, length: int) -> bool:
        """Whether the tokenizer puts the token of these bytes before one that goes on from there."""
        found = self._viable.get((done, length))
        if found is None:
            found = self._viable[done, length] = self._ask(done, length)
        return found

    def _ask(self, done: int, length: int) -> bool:
        vocabulary = self._vocabulary
        before = vocabulary.ids_of[self._prefix[done : done + length]][0]
        rest = self._prefix[done + length :]
        across, _ = self._across(done + length)
        step = max(len(across) // MAX_NEIGHBOURS, 1)
        if any(self._pairs.allows(before, int(after)) for after in vocabulary.ids[across[::step]]):
            return True
        return any(
            self._pairs.allows(before, after) and self._is_viable(done + length, more)
            for more in range(1, len(rest))
            for after in vocabulary.ids_of.get(rest[:more], ())
        )


def _head(vocabulary: SortedVocabulary, text: bytes) -> int:
    """The id of the longest token that `text` begins with; -1 where there is none, or no text."""
    for length in range(min(len(text), vocabulary.longest), 0, -1):
        found = vocabulary.ids_of.get(text[:length])
        if found:
            return found[0]
    return -1
