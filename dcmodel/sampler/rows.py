"""The rows of one forward, and what is asked of them."""

from __future__ import annotations

import math

import numpy as np

from dcmodel.logits import Floats, Ints, SampledRows, SamplePlan, ScoredRows
from dcmodel.sampler.facts import RowFacts
from dcmodel.sampler.sampling import Sampling
from dcmodel.sampler.scoring import score_rows


class NumpyLogitRows:
    """Logits on the host, ``[R, vocab_size]`` float32. They are only read, and not copied where they are
    contiguous: whoever owns them must leave them alone for as long as this object is used.

    Against float64, log-probabilities are within 2e-6 nats and their own rounding; a draw differs only where
    `uniform` is within 1e-6 of the edge between two tokens. One thread at a time may use an object.
    """

    def __init__(self, logits: Floats) -> None:
        self._logits = np.ascontiguousarray(logits, dtype=np.float32)
        self._facts = RowFacts(self._logits)

    def to_numpy(self) -> Floats:
        return self._logits

    def log_softmax(self, rows: Ints) -> Floats:
        result = np.empty((len(rows), self._logits.shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            total = self._facts.log_sum(int(row))
            if math.isfinite(total):
                # In double precision, so that the total is not rounded before it is subtracted.
                np.subtract(self._logits[row], np.float64(total), out=result[place], casting="same_kind")
            else:
                result[place] = np.nan
        return result

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        return score_rows(self._logits, self._facts, rows, targets, top_logprobs)

    def sample(self, plan: SamplePlan) -> SampledRows:
        return Sampling(self._logits, self._facts, plan).run()
