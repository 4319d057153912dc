"""Greedy rows on the CPU that ask for nothing but a token: mostly one pass over each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dcmodel.logits import Floats, SampledRows, SamplePlan
from lmql_backends.torch_rows.scoring import no_top
from lmql_backends.torch_rows.token_masks import WORD, fitted, set_bits

# From this many words with an allowed token on, a part of them is looked at first.
MANY_WORDS = 256
SAMPLED_WORDS = 64


def is_plain_greedy(plan: SamplePlan) -> bool:
    """Whether no row needs more than the largest allowed logit."""
    return not (
        plan.want_logprobs
        or plan.top_logprobs
        or len(plan.repetition[0])
        or len(plan.bias[0])
        or plan.temperature.any()
    )


def sample_greedy(logits: Tensor, plan: SamplePlan) -> SampledRows:
    """`logits` [S, width] of the planned rows: float32, on the CPU, in whole blocks padded with -inf."""
    rows = logits.numpy()
    size = len(rows)
    places = np.arange(size)
    # NaN counts as the largest: one look at the winner tells whether the row is finite.
    token_ids = rows.argmax(axis=1)
    values = rows[places, token_ids]
    is_finite = values < np.inf
    if plan.is_masked.any():
        masks = fitted(plan.bitmask, rows.shape[1])
        is_allowed = (masks[places, token_ids >> 5] >> (token_ids & 31)) & 1 != 0
        for row in np.flatnonzero(plan.is_masked & ~is_allowed & is_finite):
            token_ids[row], values[row] = _best_allowed(rows[row], masks[row])
    has_choice = is_finite & (values > -np.inf)
    token_ids[~has_choice] = -1
    zeros = np.zeros(size, dtype=np.float32)
    return SampledRows(
        token_ids=token_ids,
        is_finite=is_finite,
        has_choice=has_choice,
        raw_logprob=zeros,
        masked_logprob=zeros,
        log_mass=zeros,
        top_raw=no_top(size, 0),
        top_masked=no_top(size, 0),
    )


def _best_allowed(row: Floats, mask: NDArray[np.int32]) -> tuple[int, float]:
    """The lowest id with the largest allowed logit, and that logit; -inf where nothing is allowed."""
    (used,) = (mask != 0).nonzero()
    if len(used) > MANY_WORDS:
        # No token is better than the best of a few but those whose logits reach it: rarely many.
        chosen = used[:: len(used) // SAMPLED_WORDS]
        _, bound = _largest(row.reshape(-1, WORD)[chosen].reshape(-1), mask[chosen])
        if bound > -np.inf:
            mask = mask & np.packbits(row >= bound, bitorder="little").view(np.int32)
    return _largest(row, mask)


def _largest(logits: Floats, mask: NDArray[np.int32]) -> tuple[int, float]:
    """The first place with the largest allowed logit, and that logit."""
    places = set_bits(mask)
    if not places.size:
        return 0, -np.inf
    values = logits[places]
    best = values.argmax()
    return int(places[best]), float(values[best])
