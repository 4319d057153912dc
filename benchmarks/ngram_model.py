"""A language model of 8-grams over a real vocabulary: every token is possible, most of the mass is on few.

Its distributions are known exactly, so that what comes out of an API can be compared with what should.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDER = 8
BACKOFF = 0.1
"""Weight of the shorter context, in counts."""
UNIFORM = 0.02
"""Share of the shortest context that is spread over the whole vocabulary."""
KEPT_ROWS = 60_000


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The distribution after a context: some tokens, likeliest first; others have `scale` times the base."""

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    scale: float
    known: frozenset[int]


class NgramModel:
    """Trained on token ids."""

    def __init__(self, texts: Iterable[Sequence[int]], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        unigrams: Counter[int] = Counter()
        for text in texts:
            unigrams.update(text)
            for place in range(1, len(text)):
                for length in range(1, min(place, ORDER - 1) + 1):
                    self._counts[tuple(text[place - length : place])][text[place]] += 1
        self.base = np.full(vocab_size, UNIFORM / vocab_size)
        total = sum(unigrams.values())
        for token_id, count in unigrams.items():
            self.base[token_id] += (1.0 - UNIFORM) * count / total
        self.base_order = np.argsort(-self.base, kind="stable")[:512]
        self.base_sums = np.cumsum(self.base)
        self._rows: dict[tuple[int, ...], Row] = {}

    def row(self, context: Sequence[int]) -> Row:
        """Of the token after `context`."""
        key = tuple(context[-(ORDER - 1) :])
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= KEPT_ROWS:
                self._rows.clear()
            row = self._rows[key] = self._make_row(key)
        return row

    def dense(self, context: Sequence[int]) -> NDArray[np.float64]:
        """Probabilities of the whole vocabulary."""
        row = self.row(context)
        probabilities = row.scale * self.base
        probabilities[row.ids] = row.probabilities
        return probabilities

    def _make_row(self, context: tuple[int, ...]) -> Row:
        shares: dict[int, float] = {}
        scale = 1.0
        for length in range(1, len(context) + 1):
            counts = self._counts.get(context[-length:])
            if counts is None:
                break
            total = sum(counts.values()) + BACKOFF
            scale *= BACKOFF / total
            shares = {token_id: share * BACKOFF / total for token_id, share in shares.items()}
            for token_id, count in counts.items():
                shares[token_id] = shares.get(token_id, 0.0) + count / total
        ids = np.fromiter(shares, dtype=np.int64, count=len(shares))
        probabilities = np.fromiter(shares.values(), dtype=np.float64, count=len(shares))
        probabilities += scale * self.base[ids]
        order = np.lexsort((ids, -probabilities))
        return Row(ids[order], probabilities[order], scale, frozenset(shares))
