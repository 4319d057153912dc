"""`Experience`: what earlier texts showed, so that less has to be asked for."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
KEPT_RULES = 256
KEPT_LENGTHS = 32
LEAST_LENGTHS = 4
COVERED = 0.8
"""So many of the known texts would have fitted into what is asked for."""
KEPT_TOKENS = 1_000
FRESH = 8
"""After so many refusals the order is looked at anew."""
MOST_OPENERS = 8
LEAST_OPENINGS = 2
LEAST_SHARE = 1 / 32
"""A token with which so many texts begin, and which is refused there, is one of the openers."""
FEW_TEXTS = 16
"""So many texts that began otherwise are added, lest few tell too much."""
LEAST_LIFTS = 4
MOST_LIFTS = 2.0
"""For each beginning that an opener would have spoilt."""


@dataclass(slots=True)
class Opener:
    """A token with which texts of a rule begin in vain, and which is banned since."""

    share: float
    """Of the texts that began with it."""
    texts: int = 0
    """Begun without it."""
    lifts: int = 0
    """How often it was, or may have been, the right one later."""

    @property
    def is_worth_it(self) -> bool:
        """A refused beginning costs a request and all that it wrote; a lift costs a request at most."""
        return self.lifts < LEAST_LIFTS or self.lifts < MOST_LIFTS * self.share * self.texts


@dataclass(slots=True)
class Openings:
    """How the model begins texts of one rule."""

    texts: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    openers: dict[int, Opener] = field(default_factory=dict)
    others: set[int] = field(default_factory=set)
    """Not to be banned again."""

    def add(self, refused: Iterable[int], lifted: Iterable[int]) -> None:
        self.texts += 1
        for opener in self.openers.values():
            opener.texts += 1
        for token_id in lifted:
            if token_id in self.openers:
                self.openers[token_id].lifts += 1
                if not self.openers[token_id].is_worth_it:
                    del self.openers[token_id]
                    self.others.add(token_id)
        for token_id in refused:
            self.refused[token_id] += 1
            self._consider(token_id)

    def _consider(self, token_id: int) -> None:
        count = self.refused[token_id]
        is_usual = count >= max(LEAST_OPENINGS, LEAST_SHARE * self.texts)
        is_known = token_id in self.openers or token_id in self.others
        if is_usual and not is_known and len(self.openers) < MOST_OPENERS:
            self.openers[token_id] = Opener(count / (self.texts + FEW_TEXTS))


class Experience:
    """How long the texts of a rule are, and which tokens are refused.

    It changes no distribution: only how much is asked for at once, and which of the tokens that a mask
    forbids are banned before they are drawn. It does change which token a seed draws: texts with a seed have
    an experience of their own.
    """

    def __init__(self) -> None:
        self._lengths: OrderedDict[Hashable, deque[int]] = OrderedDict()
        self._openings: OrderedDict[Hashable, Openings] = OrderedDict()
        self._refused: Counter[int] = Counter()
        self._ranked = np.array([], dtype=np.int64)
        self._stale = 0

    def add_length(self, rule: Hashable, length: int) -> None:
        """Of a text that came to its end, in tokens."""
        known = self._lengths.setdefault(rule, deque(maxlen=KEPT_LENGTHS))
        known.append(length)
        _keep_latest(self._lengths, rule)

    def length(self, rule: Hashable) -> int | None:
        """How long most texts of a rule are; None: too few are known."""
        known = self._lengths.get(rule, ())
        if len(known) < LEAST_LENGTHS:
            return None
        return sorted(known)[int(COVERED * (len(known) - 1) + 0.5)]

    def add_opening(self, rule: Hashable, refused: Iterable[int], lifted: Iterable[int] = ()) -> None:
        """With which token a text would have begun, if it was refused; and which of its openers were, or may
        have been, wanted behind the beginning."""
        self._openings.setdefault(rule, Openings()).add(refused, lifted)
        _keep_latest(self._openings, rule)

    def openers(self, rule: Hashable) -> tuple[int, ...]:
        """Tokens with which texts of a rule often begin, and which are refused there. They stay, unless they
        are wanted later: what is banned is not seen again."""
        known = self._openings.get(rule)
        return () if known is None else tuple(known.openers)

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


def _keep_latest(known: OrderedDict[Hashable, T], rule: Hashable) -> None:
    known.move_to_end(rule)
    while len(known) > KEPT_RULES:
        known.popitem(last=False)
