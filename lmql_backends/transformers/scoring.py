"""Given tokens looked up in rows of logits; and what scoring and sampling share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Bools, Floats, Ints, ScoredRows
from lmql_backends.transformers.row_ops import Doubles, block_max, log_sum_exp, top
from lmql_backends.transformers.workspace import Workspace

# Rows scored at a time.
SCORED_ROWS = 64
# From this many targets in one row on, sorting the row is cheaper than comparing with each.
MANY_TARGETS = 64


def score_rows(
    rows_of: Callable[[Ints], Tensor], rows: Ints, targets: Ints, top_count: int, workspace: Workspace
) -> ScoredRows:
    """`rows_of` gives padded float32 rows; see `LogitRows.score` for the rest."""
    result = ScoredRows(
        logprob=np.zeros(len(rows), dtype=np.float32),
        rank=np.zeros(len(rows), dtype=np.int64),
        is_finite=np.zeros(len(rows), dtype=np.bool_),
        top=no_top(len(rows), top_count),
    )
    distinct, places = np.unique(rows, return_inverse=True)
    for start in range(0, len(distinct), SCORED_ROWS):
        members = np.flatnonzero((places >= start) & (places < start + SCORED_ROWS))
        logits = rows_of(distinct[start : start + SCORED_ROWS])
        scratch = workspace.rows("scratch", *logits.shape)
        _score(logits, scratch, places[members] - start, targets[members], members, result)
    return result


def _score(
    logits: Tensor, scratch: Tensor, places: Ints, targets: Ints, members: Ints, result: ScoredRows
) -> None:
    """Score ``targets[i]`` in row ``places[i]``; results go to ``result[members]``."""
    maxima = block_max(logits)
    largest = maxima.amax(1)
    total = log_sum_exp(logits, largest, scratch).cpu().double().numpy()
    is_finite = finite_rows(largest)
    cells = (torch.from_numpy(places).to(logits.device), torch.from_numpy(targets).to(logits.device))
    target = logits[cells]
    logprob = target.cpu().double().numpy() - total[places]
    result.is_finite[members] = is_finite[places]
    result.logprob[members] = np.where(is_finite[places], logprob, 0.0)
    result.rank[members] = _ranks(logits, places, target, scratch)
    count = result.top[0].shape[1]
    if count:
        ids, values = top_of(top(logits, maxima, count), total, is_finite)
        result.top[0][members], result.top[1][members] = ids[places], values[places]


def _ranks(logits: Tensor, places: Ints, target: Tensor, scratch: Tensor) -> Ints:
    """[n] how many logits of row ``places[i]`` are above ``target[i]``."""
    if len(places) == logits.shape[0] and (places == np.arange(len(places))).all():
        counts: Ints = _count_above(logits, target.unsqueeze(1), scratch)
        return counts
    ranks = np.zeros(len(places), dtype=np.int64)
    for row in np.unique(places):
        members = np.flatnonzero(places == row)
        wanted = target[torch.from_numpy(members).to(target.device)]
        if len(members) >= MANY_TARGETS:
            ascending = logits[row].sort().values
            ranks[members] = logits.shape[1] - torch.searchsorted(ascending, wanted, right=True).cpu().numpy()
            continue
        for member, value in zip(members, wanted, strict=True):
            ranks[member] = _count_above(logits[row : row + 1], value, scratch[row : row + 1])[0]
    return ranks


def _count_above(logits: Tensor, target: Tensor, scratch: Tensor) -> Ints:
    # Summing floats is several times as fast as counting booleans; exact up to 2**24 tokens.
    counts: Ints = torch.gt(logits, target, out=scratch).sum(1).long().cpu().numpy()
    return counts


def finite_rows(largest: Tensor) -> Bools:
    """Rows without NaN (which a maximum propagates) and +inf."""
    finite: Bools = (largest < float("inf")).cpu().numpy()
    return finite


def no_top(size: int, count: int) -> tuple[Ints, Floats]:
    return np.full((size, count), -1, dtype=np.int64), np.full((size, count), -np.inf, dtype=np.float32)


def top_of(found: tuple[Ints, Doubles], total: Doubles, is_finite: Bools) -> tuple[Ints, Floats]:
    """Ids and log-probabilities from logits; id -1 where there is no token."""
    ids, values = found
    logprobs = np.where(values > -np.inf, values - total[:, None], -np.inf)
    is_token = (logprobs > -np.inf) & is_finite[:, None]
    return np.where(is_token, ids, -1), np.where(is_token, logprobs, -np.inf).astype(np.float32)
