"""`Experience`: what earlier texts showed, so that less has to be asked for."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

KEPT_RULES = 256
KEPT_LENGTHS = 32
LEAST_LENGTHS = 4
COVERED = 0.8
"""So many of the known texts would have fitted into what is asked for."""
KEPT_TOKENS = 1_000
FRESH = 8
"""After so many refusals the order is looked at anew."""


class Experience:
    """How long the texts of a rule are, and which tokens are refused.

    It changes no distribution: only how much is asked for at once, and which of the tokens that a mask
    forbids are banned before they are drawn. It does change which token a seed draws: texts with a seed have
    an experience of their own.
    """

    def __init__(self) -> None:
        self._lengths: OrderedDict[Hashable, deque[int]] = OrderedDict()
        self._refused: Counter[int] = Counter()
        self._ranked = np.array([], dtype=np.int64)
        self._stale = 0

    def add_length(self, rule: Hashable, length: int) -> None:
        """Of a text that came to its end, in tokens."""
        known = self._lengths.setdefault(rule, deque(maxlen=KEPT_LENGTHS))
        self._lengths.move_to_end(rule)
        known.append(length)
        while len(self._lengths) > KEPT_RULES:
            self._lengths.popitem(last=False)

    def length(self, rule: Hashable) -> int | None:
        """How long most texts of a rule are; None: too few are known."""
        known = self._lengths.get(rule, ())
        if len(known) < LEAST_LENGTHS:
            return None
        return sorted(known)[int(COVERED * (len(known) - 1) + 0.5)]

    def add_refused(self, token_ids: Iterable[int]) -> None:
        """They were drawn, and not allowed."""
        self._refused.update(token_ids)
        self._stale += 1
        if len(self._refused) > 2 * KEPT_TOKENS:
            self._refused = Counter(dict(self._refused.most_common(KEPT_TOKENS)))

    def refused(self, vocab_size: int) -> NDArray[np.int64]:
        """Those of a vocabulary that were refused most often first; the last few may be missing."""
        if self._stale >= FRESH:
            ids = [item for item, _ in self._refused.most_common(KEPT_TOKENS) if item < vocab_size]
            self._ranked, self._stale = np.array(ids, dtype=np.int64), 0
        return self._ranked
