"""Canonical tokenization: only tokens that the tokenizer itself would put one after the other.

A text has many spellings in tokens, and a model has hardly seen any but the one that its tokenizer
makes. For a BPE vocabulary a sequence is canonical exactly if each pair of neighbours is (Vieira et al.,
"Language models over canonical byte-pair encodings", 2025); for others, and across what a tokenizer
splits at first, the test of pairs is an approximation, and parts of characters are not tested. The text
comes first: where the rule leaves canonical tokens no way on, others are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dcmodel.constraint import CompiledConstraint, Matcher, Walker
from dcmodel.constraints.algebra.delegating import DelegatingMatcher
from dcmodel.errors import DeadEndError
from dcmodel.mask import mask_words, row_to_ids
from dctokenizers import Tokenizer, TokenizerError

MAX_PAIRS_KEPT = 200_000
MAX_TRIED = 4_000
FOLLOWERS = ("a", "A", "1")
MAX_FEW = 32
"""Where the rule leaves no more tokens than these, it is looked whether any of them is canonical."""
MAX_AHEAD = 3
"""How many tokens ahead."""


class CanonicalPairs:
    """Which pairs of tokens the tokenizer makes; asked once each."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int | None, int], bool] = {}

    def allows(self, before: int | None, token_id: int) -> bool:
        """Whether the text of both, tokenized together, gives these two tokens again.

        Without a token before it, or where that is no text or part of a character: the token alone.
        """
        pair = (before, token_id)
        found = self._known.get(pair)
        if found is None:
            if len(self._known) >= MAX_PAIRS_KEPT:
                self._known.clear()
            found = self._known[pair] = self._ask(before, token_id)
        return found

    def _ask(self, before: int | None, token_id: int) -> bool:
        tokenizer = self._tokenizer
        if token_id in tokenizer.special_token_ids or token_id in tokenizer.eos_token_ids:
            return True
        token_ids = (
            [token_id] if before is None or before in tokenizer.special_token_ids else [before, token_id]
        )
        try:
            text = b"".join(map(tokenizer.token_bytes, token_ids)).decode("utf-8")
        except UnicodeDecodeError:  # part of a character has no usual tokens of its own
            return before is None or self.allows(None, token_id)
        try:
            if tokenizer.encode(text) == token_ids:
                return True
            # Many tokenizers split white space by what comes after it: `\n\n` before a word is two tokens.
            longer = [text + follower for follower in FOLLOWERS] if text[-1:].isspace() else []
            return any(tokenizer.encode(item)[: len(token_ids)] == token_ids for item in longer)
        except TokenizerError:
            return True


class CanonicalCompiled(CompiledConstraint):
    """A compiled rule of which only canonical tokens are taken."""

    def __init__(self, inner: CompiledConstraint, tokenizer: Tokenizer, pairs: CanonicalPairs) -> None:
        self.inner = inner
        self.tokenizer = tokenizer
        self.pairs = pairs

    def matcher(self) -> CanonicalMatcher:
        return CanonicalMatcher(self, self.inner.matcher(), [])

    def matcher_after(self, token_id: int) -> CanonicalMatcher:
        """A matcher whose first token has to fit the one before it, a healed prompt's last one."""
        return CanonicalMatcher(self, self.inner.matcher(), [token_id])

    def walker(self) -> Walker:
        return self.inner.walker()


class CanonicalMatcher(DelegatingMatcher):
    """One sequence; refuses a token after the last one where the tokenizer would not put it there.

    And a token after which the rule leaves few tokens, none of them canonical: a blank, where only `yes`
    may follow, and ` yes` is a token.
    """

    __slots__ = ("_compiled", "_lenient", "_token_ids")

    def __init__(self, compiled: CanonicalCompiled, inner: Matcher, token_ids: list[int]) -> None:
        super().__init__(inner)
        self._compiled = compiled
        self._token_ids = token_ids
        # Where no canonical token was left: how many tokens there were.
        self._lenient = -1

    @property
    def rule(self) -> Matcher:
        """The matcher of the rule alone, in the same state; to be moved only when this one no longer is."""
        return self._inner

    def advance(self, token_ids: Sequence[int]) -> int:
        for taken, token_id in enumerate(token_ids):
            if not self._push(token_id):
                return taken
        return len(token_ids)

    def _push(self, token_id: int) -> bool:
        is_lenient = self._lenient == len(self._token_ids)
        if not (is_lenient or self._is_usual(token_id)):
            return False
        is_sure = is_lenient or self._inner.forced()[:1] == [token_id]
        if not self._inner.advance([token_id]):
            return False
        if not is_sure and not self._leads_on(self._inner, token_id, MAX_AHEAD):
            self._inner.rollback(1)
            return False
        self._token_ids.append(token_id)
        return True

    def forced(self) -> list[int]:
        """What the rule forces, up to where the tokenizer would put other tokens."""
        run = self._inner.forced()
        last = self._token_ids[-1:]
        for count, (before, token_id) in enumerate(pairwise([*last, *run]), start=1 - len(last)):
            if not self._compiled.pairs.allows(before, token_id):
                return run[:count]
        return run

    def _is_usual(self, token_id: int) -> bool:
        return self._compiled.pairs.allows(self._token_ids[-1] if self._token_ids else None, token_id)

    def _leads_on(self, inner: Matcher, last: int, depth: int) -> bool:
        """Whether canonical tokens can follow; False is sure only of the next `depth` of them."""
        if depth == 0 or inner.is_accepting or inner.is_finished:
            return True
        allowed = self._allowed(inner)
        if len(allowed) > MAX_FEW:
            return True
        run = inner.forced()
        for token_id in allowed:
            if self._compiled.pairs.allows(last, token_id):
                if run[:1] == [token_id]:
                    return True
                twin = inner.fork()
                if twin.advance([token_id]) and self._leads_on(twin, token_id, depth - 1):
                    return True
        return False

    def _allowed(self, inner: Matcher) -> list[int]:
        vocab_size = self._compiled.tokenizer.vocab_size
        row = np.zeros(mask_words(vocab_size), dtype=np.int32)
        try:
            inner.fill_mask(row)
        except DeadEndError:
            return []
        allowed: list[int] = row_to_ids(row, vocab_size).tolist()
        return allowed

    @property
    def is_exact(self) -> bool:
        return False

    def ways_out(self) -> list[int]:
        """Canonical tokens that the rule allows now or, where there are none, any that it allows."""
        inner = self._inner
        live = self._allowed(inner) if inner.is_exact else inner.ways_out()
        usual = [token_id for token_id in live[:MAX_TRIED] if self._is_usual(token_id)]
        far = [token_id for token_id in usual[:MAX_FEW] if self.fork()._push(token_id)]
        if not far:
            self._lenient = len(self._token_ids)
        return far or usual or live

    def rollback(self, count: int) -> None:
        self._inner.rollback(count)
        if count:
            del self._token_ids[-count:]
        self._lenient = -1

    def fork(self) -> CanonicalMatcher:
        twin = CanonicalMatcher(self._compiled, self._inner.fork(), self._token_ids.copy())
        twin._lenient = self._lenient
        return twin
