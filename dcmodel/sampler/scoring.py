"""Given tokens, looked up in rows of logits; each row is computed once, however many tokens it has."""

from __future__ import annotations

import math

import numpy as np

from dcmodel.logits import Floats, Ints, ScoredRows
from dcmodel.sampler.facts import RowFacts
from dcmodel.sampler.row_ops import copy_top, no_top, set_top, top

# From this many targets in one row on, sorting the row is cheaper than comparing it with each.
MANY_TARGETS = 24


def score_rows(logits: Floats, facts: RowFacts, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
    """See `LogitRows.score`. A row without any possible token is not finite either."""
    size = len(rows)
    ranks = np.zeros(size, dtype=np.int64)
    log_sums = np.full(size, np.nan)
    found_top = no_top(size, min(top_logprobs, logits.shape[1]))
    order = np.argsort(rows, kind="stable")
    distinct, counts = np.unique(rows, return_counts=True)
    parts = np.split(order, np.cumsum(counts))
    for row, members in zip(distinct.tolist(), parts[:-1], strict=True):
        log_sum = facts.log_sum(row)
        if not math.isfinite(log_sum):
            continue
        log_sums[members] = log_sum
        ranks[members] = _ranks(logits[row], logits[row, targets[members]])
        if top_logprobs:
            first = int(members[0])
            ids = top(logits[row], top_logprobs)
            set_top(found_top, first, ids, logits[row, ids], log_sum)
            copy_top(found_top, first, found_top, members[1:])
    is_finite = np.isfinite(log_sums)
    target = logits[rows, targets].astype(np.float64)
    return ScoredRows(
        logprob=np.where(is_finite, target - log_sums, 0.0).astype(np.float32),
        rank=ranks,
        is_finite=is_finite,
        top=found_top,
    )


def _ranks(row: Floats, values: Floats) -> Ints:
    """[n] how many logits of a row are above each value."""
    if len(values) >= MANY_TARGETS:
        places: Ints = len(row) - np.sort(row).searchsorted(values, side="right")
        return places
    is_above = np.empty(len(row), dtype=np.bool_)
    ranks = np.empty(len(values), dtype=np.int64)
    for index, value in enumerate(values):
        ranks[index] = np.count_nonzero(np.greater(row, value, out=is_above))
    return ranks
