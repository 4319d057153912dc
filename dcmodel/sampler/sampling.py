"""One call of `sample`: which rows need more than their likeliest token, and what."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from dcmodel.logits import Bools, Floats, Ints, SampledRows, SamplePlan
from dcmodel.sampler.adjustments import Adjustments
from dcmodel.sampler.drawing import DrawSettings, draw
from dcmodel.sampler.facts import RowFacts
from dcmodel.sampler.row_ops import Doubles, copy_top, log_sum_exp, no_top, relative_weights, set_top, top
from dcmodel.sampler.token_masks import TokenMasks, padded

# Masks that allow at most this share of the vocabulary are turned into ids, others are spread over the row.
FEW = 1 / 16
# The same where all that is asked for is the largest: spreading a mask has no branches to mispredict.
FEW_GREEDY = 1 / 128
# Below this share of the probability, what a mask keeps is added up anew, relative to its largest part.
LEAST_MASS = 1e-30
# So many more of a row's likeliest tokens are found than twice those wanted, for a mask to choose from.
SPARE = 8


class Sampling:
    """One call of `sample`. Where the likeliest token of a row will do, one pass over the row is all."""

    def __init__(self, logits: Floats, facts: RowFacts, plan: SamplePlan) -> None:
        size, vocab_size = len(plan.rows), logits.shape[1]
        self._logits = logits
        self._facts = facts
        self._plan = plan
        self._masks = TokenMasks(plan.bitmask, vocab_size)
        self._adjustments = Adjustments(plan)
        self._wants_logprobs = bool(plan.want_logprobs or plan.top_logprobs)
        self._token_ids, self._largest = facts.best(plan.rows)
        self._is_finite: Bools = self._largest < np.inf
        self._has_choice: Bools = self._is_finite & (self._largest > -np.inf)
        self._log_sums = np.zeros(size)
        self._log_mass = np.zeros(size)
        top_count = min(plan.top_logprobs, vocab_size)
        self._top_raw = no_top(size, top_count)
        self._top_masked = no_top(size, top_count)
        self._top_count = top_count
        self._counts: list[int] = []
        self._restricted = np.empty(0, dtype=np.float32)
        self._scratch = np.empty(0, dtype=np.float32)

    def run(self) -> SampledRows:
        plan = self._plan
        is_best = (plan.temperature == 0) & ~self._adjustments.any
        if plan.is_masked.any():
            everyone = np.arange(len(plan.rows))
            is_best &= ~plan.is_masked | self._masks.allow(everyone, self._token_ids)
        left = self._has_choice if self._wants_logprobs else self._has_choice & ~is_best
        places = left.nonzero()[0]
        if plan.is_masked[places].any():
            self._counts = self._masks.counts()
        for place in places.tolist():
            likeliest = self._look(place) if self._wants_logprobs else None
            if plan.is_masked[place]:
                self._sample_masked(place, likeliest, bool(is_best[place]))
            elif not is_best[place]:
                best = int(self._token_ids[place])
                self._draw(place, self._logits[plan.rows[place]], None, best, is_own=False)
        self._token_ids[~self._has_choice] = -1
        return SampledRows(
            token_ids=self._token_ids,
            is_finite=self._is_finite,
            has_choice=self._has_choice,
            **self._logprobs(),
            top_raw=self._top_raw,
            top_masked=self._top_masked,
        )

    def _look(self, place: int) -> Ints | None:
        """What log-probabilities need of the raw row. Returns its likeliest tokens, more than are wanted."""
        row = int(self._plan.rows[place])
        log_sum = self._log_sums[place] = self._facts.log_sum(row)
        if not self._top_count:
            return None
        logits = self._logits[row]
        is_masked = self._plan.is_masked[place]
        likeliest = top(logits, 2 * self._top_count + SPARE if is_masked else self._top_count)
        set_top(self._top_raw, place, likeliest, logits[likeliest], log_sum)
        if not is_masked:
            copy_top(self._top_raw, place, self._top_masked, place)
        return likeliest

    def _sample_masked(self, place: int, likeliest: Ints | None, is_best: bool) -> None:
        """`is_best`: the row's likeliest token is the one to draw."""
        row = int(self._plan.rows[place])
        logits = self._logits[row]
        count = self._counts[place]
        is_greedy = not self._wants_logprobs and self._plan.temperature[place] == 0
        if count <= (FEW_GREEDY if is_greedy else FEW) * len(logits):
            ids = self._masks.ids(place, count)
            values = logits[ids]
            if self._wants_logprobs:
                kept = self._note_mass(place, log_sum_exp(values))
                if self._top_count:
                    found = top(values, self._top_count)
                    set_top(self._top_masked, place, ids[found], values[found], kept)
            if not is_best:
                self._draw(place, values, ids, _argmax(values), is_own=True)
            return
        values = logits
        if likeliest is not None:
            likeliest = likeliest[self._masks.allow(place, likeliest)]
        needs_top = likeliest is not None and len(likeliest) < self._top_count
        if not is_best or needs_top:
            values = self._masks.restrict(place, logits, self._room_for_mask())
        if self._wants_logprobs:
            kept = self._note_mass(place, self._log_kept(place, row, values))
            if likeliest is not None:
                if needs_top:
                    likeliest = top(values, self._top_count)
                set_top(self._top_masked, place, likeliest, values[likeliest], kept)
        if not is_best:
            self._draw(place, values, None, _argmax(values), is_own=True)

    def _note_mass(self, place: int, kept: float) -> float:
        self._log_mass[place] = min(0.0, kept - self._log_sums[place])
        return kept

    def _log_kept(self, place: int, row: int, values: Floats) -> float:
        """The log of the sum of the exponentials that a wide mask keeps; `values` are what it leaves, but
        for rows whose likeliest token is allowed, where they are not needed."""
        weights = self._facts.weights(row)
        largest = float(self._largest[place])
        if self._counts[place] >= (1.0 - FEW) * len(weights):
            forbidden = self._masks.forbidden(place)
            if forbidden is not None:
                total = math.exp(self._log_sums[place] - largest)
                kept = total - float(weights[forbidden].sum())
                # What is left of a larger number has lost digits.
                if kept > total / 2:
                    return largest + math.log(kept)
        kept = self._masks.kept_sum(place, weights, self._room())
        # Single precision has lost what is too small.
        return largest + math.log(kept) if kept > LEAST_MASS else log_sum_exp(values)

    def _draw(self, place: int, values: Floats, ids: Ints | None, best: int, *, is_own: bool) -> None:
        """Draw from `values`, those of all tokens or of `ids`. `best` is where the largest is, -1 where there
        are none; `is_own`: the values may be written to."""
        if best < 0 or values[best] == -np.inf:
            self._has_choice[place] = False
            return
        if self._adjustments.any[place]:
            values, is_own = values if is_own else values.copy(), True
            self._adjustments.apply(place, values, ids)
            best = int(values.argmax())
        if self._plan.temperature[place] > 0 and values[best] > -np.inf:
            # An untouched row's weights may be known already.
            weights_of = self._weights if is_own else partial(self._raw_weights, int(self._plan.rows[place]))
            best = draw(values, float(values[best]), self._settings(place), weights_of)
        self._token_ids[place] = best if ids is None else ids[best]

    def _weights(self, values: Floats, largest: float, temperature: float) -> Floats:
        return relative_weights(values, largest, temperature, self._room()[: len(values)])

    def _raw_weights(self, row: int, values: Floats, largest: float, temperature: float) -> Floats:
        if temperature == 1.0:
            return self._facts.weights(row)
        return self._weights(values, largest, temperature)

    def _settings(self, place: int) -> DrawSettings:
        plan = self._plan
        return DrawSettings(
            float(plan.temperature[place]),
            int(plan.top_k[place]),
            float(plan.top_p[place]),
            float(plan.min_p[place]),
            float(plan.uniform[place]),
        )

    def _logprobs(self) -> dict[str, Floats]:
        zeros = np.zeros(len(self._token_ids), dtype=np.float32)
        if not self._wants_logprobs:
            return {"raw_logprob": zeros, "log_mass": zeros, "masked_logprob": zeros}
        ok = self._has_choice
        chosen: Doubles = self._logits[self._plan.rows, self._token_ids].astype(np.float64)
        raw = np.where(ok, chosen - self._log_sums, 0.0)
        mass = np.where(ok, self._log_mass, 0.0)
        return {
            "raw_logprob": raw.astype(np.float32),
            "log_mass": mass.astype(np.float32),
            "masked_logprob": (raw - mass).astype(np.float32),
        }

    def _room_for_mask(self) -> Floats:
        if not len(self._restricted):
            self._restricted = np.empty(padded(self._logits.shape[1]), dtype=np.float32)
        return self._restricted

    def _room(self) -> Floats:
        """The same once more, for what does not outlive a step."""
        if not len(self._scratch):
            self._scratch = np.empty(padded(self._logits.shape[1]), dtype=np.float32)
        return self._scratch


def _argmax(values: Floats) -> int:
    """The first of the largest; -1 where there are none."""
    return int(values.argmax()) if len(values) else -1
