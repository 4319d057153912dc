"""Canonical tokenization: only tokens that the tokenizer itself would put one after the other.

A text has many spellings in tokens, and a model has hardly seen any but the one that its tokenizer
makes. For a BPE vocabulary a sequence is canonical exactly if each pair of neighbours is (Vieira et al.,
"Language models over canonical byte-pair encodings", 2025); for others, and across what a tokenizer
splits at first, the test of pairs is an approximation. The text comes first: where the rule leaves
canonical tokens no way on, others are taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dcmodel.constraint import CompiledConstraint, Matcher, Walker
from dcmodel.constraints.algebra.delegating import DelegatingMatcher
from dcmodel.errors import DeadEndError
from dcmodel.mask import mask_words, row_to_ids
from dctokenizers import Tokenizer, TokenizerError

MAX_PAIRS_KEPT = 200_000
MAX_TRIED = 4_000


class CanonicalPairs:
    """Which pairs of tokens the tokenizer makes; asked once each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, int], bool] = {}

    def allows(self, before: int, token_id: int) -> bool:
        """Whether the text of both, tokenized together, gives these two tokens again."""
        pair = (before, token_id)
        found = self._known.get(pair)
        if found is None:
            if len(self._known) >= MAX_PAIRS_KEPT:
                self._known.clear()
            found = self._known[pair] = self._ask(before, token_id)
        return found

    def _ask(self, before: int, token_id: int) -> bool:
        tokenizer = self._tokenizer
        special = tokenizer.special_token_ids
        if before in special or token_id in special:
            return True
        text = tokenizer.token_bytes(before) + tokenizer.token_bytes(token_id)
        try:
            # Part of a character has no usual tokens of its own.
            return tokenizer.encode(text.decode("utf-8")) == [before, token_id]
        except (UnicodeDecodeError, TokenizerError):
            return True


class CanonicalCompiled(CompiledConstraint):
    """A compiled rule of which only canonical tokens are taken."""

    def __init__(self, inner: CompiledConstraint, tokenizer: Tokenizer, pairs: CanonicalPairs) -> None:
        self.inner = inner
        self.tokenizer = tokenizer
        self.pairs = pairs

    def matcher(self) -> CanonicalMatcher:
        return CanonicalMatcher(self, self.inner.matcher(), [])

    def walker(self) -> Walker:
        return self.inner.walker()


class CanonicalMatcher(DelegatingMatcher):
    """One sequence; refuses a token after the last one where the tokenizer would not put it there."""

    __slots__ = ("_compiled", "_lenient", "_token_ids")

    def __init__(self, compiled: CanonicalCompiled, inner: Matcher, token_ids: list[int]) -> None:
        super().__init__(inner)
        self._compiled = compiled
        self._token_ids = token_ids
        # Where no canonical token was left: how many tokens there were.
        self._lenient = -1

    def advance(self, token_ids: Sequence[int]) -> int:
        for taken, token_id in enumerate(token_ids):
            # What the rule forces is in its usual tokens, seen from farther back than a pair.
            is_usual = self._is_usual(token_id) or self._inner.forced()[:1] == [token_id]
            if not is_usual or not self._inner.advance([token_id]):
                return taken
            self._token_ids.append(token_id)
        return len(token_ids)

    def _is_usual(self, token_id: int) -> bool:
        if not self._token_ids or self._lenient == len(self._token_ids):
            return True
        return self._compiled.pairs.allows(self._token_ids[-1], token_id)

    @property
    def is_exact(self) -> bool:
        return False

    def ways_out(self) -> list[int]:
        """Canonical tokens that the rule allows now or, where there are none, any that it allows."""
        tokenizer = self._compiled.tokenizer
        row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
        try:
            self._inner.fill_mask(row)
        except DeadEndError:
            return []
        allowed = row_to_ids(row, tokenizer.vocab_size).tolist()
        inner = self._inner
        live = allowed if inner.is_exact else inner.ways_out()
        usual = [token_id for token_id in live[:MAX_TRIED] if self._is_usual(token_id)]
        if not usual:
            self._lenient = len(self._token_ids)
        return usual or live

    def rollback(self, count: int) -> None:
        self._inner.rollback(count)
        if count:
            del self._token_ids[-count:]
        self._lenient = -1

    def fork(self) -> CanonicalMatcher:
        twin = CanonicalMatcher(self._compiled, self._inner.fork(), self._token_ids.copy())
        twin._lenient = self._lenient
        return twin
