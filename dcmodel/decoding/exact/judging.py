"""The next token where a mask allows more than the constraint does: rejection, with an unbiased weight.

A mask that is not exact also holds tokens that `append` refuses. Let p be the model's distribution, S what
the mask allows, and A what is accepted of it. Wanted are draws x from p restricted to A and, for the
particle's weight, the mass p(A), without judging all of S.

*The draw.* Draw from p on S; a refused token is taken out of S, and the draw repeated. Given all that was
judged before, each proposal comes from p on some set that holds A, so the first accepted one comes from p on
A. This holds for any number of particles that share what was found out (`Judgements.draw`).

*The mass.* After the draws, the accepted tokens that are known, K, have a known mass, and the tokens that
nobody judged, U, hold the rest: p(A) = p(K) + p(A & U). One more draw y from p on U estimates it: p(U) if y
is accepted and 0 if not has the expectation p(A & U), given all that was judged before, x included. So
p(K) + p(U) [y in A] is unbiased given x, which makes (x, estimate) properly weighted: for any f, the
expectation of estimate * f(x) is the sum of p(x) f(x) over A. Before that last draw any number of others may
move tokens out of U into K or out of S; how many may depend on what they found (`Judgements.mass`). The
estimate is never 0, as K holds x, and never above p(S).

This is the recursive estimator of Lipkin et al. 2025 ("Fast Controlled Generation from Language Models with
Adaptive Weighted Rejection Sampling"), with more than one step, and common to all particles of a place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SMALL_REST = 0.1
"""The last draw comes once the unknown mass is at most this share of the accepted one ..."""
MAX_CHECKS = 8
"""... or after so many."""

UNKNOWN, ACCEPTED, REFUSED = 0, 1, 2


class Judgements:
    """What is known of the tokens that a mask allows at one place."""

    def __init__(
        self, token_ids: NDArray[np.int64], probs: NDArray[np.float64], judge: Callable[[int], bool] | None
    ) -> None:
        """`probs`: [S] what the model gives to `token_ids`. `judge`: whether the token with this index is
        accepted; it is asked once for each. None: all are."""
        self.token_ids = token_ids
        self.probs = probs
        self._judge = judge
        self._status = np.full(len(probs), ACCEPTED if judge is None else UNKNOWN, dtype=np.int8)

    @property
    def is_exact(self) -> bool:
        """Whether nothing is left to find out."""
        return self._judge is None or not (self._status == UNKNOWN).any()

    @property
    def known_mass(self) -> float:
        """p(K)."""
        return float(self.probs[self._status == ACCEPTED].sum())

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`count` independent draws from p on A, as indices; none at all where A has no mass."""
        drawn = np.full(count, -1, dtype=np.int64)
        missing = np.arange(count)
        while len(missing):
            picks = self._pick(self._status != REFUSED, len(missing), rng)
            if picks is None:
                return drawn[:0]
            for pick in np.unique(picks):
                self._find_out(int(pick))
            taken = self._status[picks] == ACCEPTED
            drawn[missing[taken]] = picks[taken]
            missing = missing[~taken]
        return drawn

    def mass(self, rng: np.random.Generator) -> float:
        """An unbiased estimate of p(A), given all that was drawn; exact where nothing is unknown."""
        for checks in range(1, MAX_CHECKS + 1):
            unknown = self._status == UNKNOWN
            rest, known = float(self.probs[unknown].sum()), self.known_mass
            picks = self._pick(unknown, 1, rng) if rest > 0.0 else None
            if picks is None:
                return known
            # Decided before the draw, or else it would be biased.
            is_last = rest <= SMALL_REST * known or checks == MAX_CHECKS
            is_accepted = self._find_out(int(picks[0]))
            if is_last:
                return known + rest * is_accepted
        raise AssertionError("the last check returns")

    def _pick(
        self, among: NDArray[np.bool_], count: int, rng: np.random.Generator
    ) -> NDArray[np.int64] | None:
        """Indices drawn from p on a set; None where it has no mass."""
        places = np.flatnonzero(among & (self.probs > 0.0))
        if not len(places):
            return None
        cumulative = np.cumsum(self.probs[places])
        picks = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        indices: NDArray[np.int64] = places[np.minimum(picks, len(places) - 1)]
        return indices

    def _find_out(self, place: int) -> bool:
        if self._status[place] == UNKNOWN:
            assert self._judge is not None
            self._status[place] = ACCEPTED if self._judge(place) else REFUSED
        return bool(self._status[place] == ACCEPTED)
