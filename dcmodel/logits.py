"""The rows of logits that an engine returns, and the few operations that the scheduler asks of them.

Each engine implements `LogitRows` in its own array library; `dcmodel.sampler` is the numpy
form; the tests' plain reference is `tests/fakes/plain_sampler.py`. All results are numpy arrays on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class SamplePlan:
    """How to draw one token from each of S rows. Sparse adjustments are flat (row, id, value) triples,
    where `row` counts within the plan (0 <= row < S)."""

    rows: Ints
    """[S] which logit rows to draw from."""
    bitmask: NDArray[np.int32]
    """[S, words] packed masks; words may be fewer or more than the logits need: missing bits are 0."""
    is_masked: Bools
    """[S] whether the row of `bitmask` counts; where False everything is allowed."""
    temperature: Floats
    """[S] 0 = greedy."""
    top_k: Ints
    """[S] 0 = off."""
    top_p: Floats
    """[S] 1 = off."""
    min_p: Floats
    """[S] 0 = off."""
    uniform: NDArray[np.float64]
    """[S] one number in [0, 1) per row: the token is where the cumulative distribution over ids in
    ascending order first exceeds it. Ignored for greedy rows."""
    repetition: tuple[Ints, Ints, Floats]
    """Repetition penalty: logit > 0 is divided by, logit <= 0 multiplied with the value."""
    bias: tuple[Ints, Ints, Floats]
    """Added to the logits: logit bias, minus presence and frequency penalties. A (row, id) pair
    occurs at most once."""
    want_logprobs: bool
    """Whether `raw_logprob`, `masked_logprob` and `log_mass` are needed for any row."""
    top_logprobs: int
    """Largest number of likeliest tokens wanted by any row; 0 = none."""


@dataclass(slots=True, kw_only=True)
class SampledRows:
    """What was drawn from S rows. Float fields are zeros where they were not wanted."""

    token_ids: Ints
    """[S]; -1 where `is_finite` or `has_choice` is False."""
    is_finite: Bools
    """[S] False: the row held NaN or +inf (in any place, allowed or not)."""
    has_choice: Bools
    """[S] False: the mask left no token with a finite logit."""
    raw_logprob: Floats
    """[S] of the drawn token in log-softmax of the raw logits."""
    masked_logprob: Floats
    """[S] ``raw_logprob - log_mass``."""
    log_mass: Floats
    """[S] log of the raw probability that the mask kept."""
    top_raw: tuple[Ints, Floats]
    """ids and raw log-probabilities [S, k], likeliest first, ties by lower id."""
    top_masked: tuple[Ints, Floats]
    """The same among allowed tokens, renormalised; id -1 where fewer are allowed."""


@dataclass(slots=True, kw_only=True)
class ScoredRows:
    """Given tokens, looked up in S rows."""

    logprob: Floats
    """[S] raw log-probability of the target."""
    rank: Ints
    """[S] number of tokens with a higher logit."""
    is_finite: Bools
    top: tuple[Ints, Floats]
    """ids and raw log-probabilities [S, k], likeliest first."""


class LogitRows(Protocol):
    """The logits of one forward; valid until the engine's next one."""

    def sample(self, plan: SamplePlan) -> SampledRows:
        """Draw one token per planned row."""

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        """Log-probability and rank of ``targets[i]`` in row ``rows[i]``."""

    def log_softmax(self, rows: Ints) -> Floats:
        """Raw log-probabilities of the whole vocabulary, ``[len(rows), vocab_size]`` float32, the caller's
        own; NaN throughout a row that holds NaN or +inf."""

    def to_numpy(self) -> Floats:
        """All rows, ``[R, vocab_size]`` float32 (tests)."""
