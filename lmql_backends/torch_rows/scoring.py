"""Given tokens looked up in rows of logits; and what scoring and sampling share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Bools, Floats, Ints, ScoredRows
from lmql_backends.torch_rows.row_ops import Doubles, block_max, log_sum_exp, top
from lmql_backends.torch_rows.workspace import Workspace

# Rows are scored in blocks of so many bytes: what several passes read stays in the cache.
HOST_BYTES, DEVICE_BYTES = 2 << 20, 16 << 20
# From this many targets in one row on, sorting the row is cheaper than comparing with each.
MANY_TARGETS = 16

RowsOf = Callable[[Ints, bool], Tensor]
"""Chosen rows as float32, to be read only; padded to whole blocks where that is asked."""


def score_rows(
    rows_of: RowsOf, vocab_size: int, rows: Ints, targets: Ints, top_count: int, workspace: Workspace
) -> ScoredRows:
    """See `LogitRows.score`."""
    result = ScoredRows(
        logprob=np.zeros(len(rows), dtype=np.float32),
        rank=np.zeros(len(rows), dtype=np.int64),
        is_finite=np.zeros(len(rows), dtype=np.bool_),
        top=no_top(len(rows), top_count),
    )
    order = np.argsort(rows, kind="stable")
    distinct, first = np.unique(rows[order], return_index=True)
    bounds = np.append(first, len(rows))
    is_host = workspace.device.type == "cpu"
    size = max(1, (HOST_BYTES if is_host else DEVICE_BYTES) // (4 * vocab_size))
    for start, stop in _runs(distinct, size):
        members = order[bounds[start] : bounds[stop]]
        places = np.searchsorted(distinct, rows[members]) - start
        logits = rows_of(distinct[start:stop], bool(top_count) or not is_host)
        score = _score_host if is_host else _score_device
        total = score(logits, places, targets[members], members, result, workspace)
        if top_count:
            is_finite = np.isfinite(total)
            ids, values = top_of(top(logits, block_max(logits), top_count), total, is_finite)
            result.top[0][members], result.top[1][members] = ids[places], values[places]
    return result


def _runs(rows: Ints, size: int) -> Iterator[tuple[int, int]]:
    """Cut ascending rows into runs of neighbours (which need no copy), of at most `size` rows."""
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for start, stop in pairwise([0, *ends]):
        for begin in range(start, stop, size):
            yield begin, min(begin + size, stop)


def _score_host(
    logits: Tensor, places: Ints, targets: Ints, members: Ints, result: ScoredRows, workspace: Workspace
) -> Doubles:
    """Score ``targets[i]`` in row ``places[i]`` (ascending); results go to ``result[members]``.

    Returns the log of each row's sum of exponentials; NaN or inf where the row is not finite.
    """
    scratch = workspace.rows("scratch", *logits.shape)
    torch.softmax(logits, dim=1, out=scratch)
    host, each = logits.numpy(), np.arange(len(logits))
    best = host.argmax(axis=1)
    # softmax of the maximum is 1 / sum(exp(x - max)).
    total: Doubles = host[each, best].astype(np.float64) - np.log(
        scratch.numpy()[each, best].astype(np.float64)
    )
    target = host[places, targets]
    _set_scores(result, members, places, target.astype(np.float64), total)
    result.rank[members] = _host_ranks(host, places, target)
    return total


def _score_device(
    logits: Tensor, places: Ints, targets: Ints, members: Ints, result: ScoredRows, workspace: Workspace
) -> Doubles:
    """The same with few, large operations."""
    scratch = workspace.rows("scratch", *logits.shape)
    total: Doubles = log_sum_exp(logits, block_max(logits).amax(1), scratch).cpu().double().numpy()
    cells = (torch.from_numpy(places).to(logits.device), torch.from_numpy(targets).to(logits.device))
    target = logits[cells]
    _set_scores(result, members, places, target.cpu().double().numpy(), total)
    result.rank[members] = _device_ranks(logits, places, target)
    return total


def _set_scores(result: ScoredRows, members: Ints, places: Ints, target: Doubles, total: Doubles) -> None:
    is_finite = np.isfinite(total)[places]
    result.is_finite[members] = is_finite
    result.logprob[members] = np.where(is_finite, target - total[places], 0.0)


def _host_ranks(logits: Floats, places: Ints, target: Floats) -> Ints:
    """[n] how many logits of row ``places[i]`` are above ``target[i]``; `places` ascend."""
    ranks = np.zeros(len(places), dtype=np.int64)
    above = np.empty(logits.shape[1], dtype=np.bool_)
    # A comparison of a whole row takes ten times as long as the turn of a loop.
    for row, start, stop in _by_row(places):
        if stop - start >= MANY_TARGETS:
            ascending = np.sort(logits[row])
            ranks[start:stop] = logits.shape[1] - ascending.searchsorted(target[start:stop], side="right")
            continue
        for place in range(start, stop):
            np.greater(logits[row], target[place], out=above)
            ranks[place] = np.count_nonzero(above)
    return ranks


def _device_ranks(logits: Tensor, places: Ints, target: Tensor) -> Ints:
    """The same: first one target of each row at once, then the second of each row that has two, ..."""
    ranks = torch.zeros(len(places), dtype=torch.long, device=logits.device)
    turns = np.zeros(len(places), dtype=np.int64)
    for row, start, stop in _by_row(places):
        turns[start:stop] = np.arange(stop - start)
        if stop - start >= MANY_TARGETS:
            turns[start:stop] = -1
            ascending = logits[row].sort().values
            found = torch.searchsorted(ascending, target[start:stop].contiguous(), right=True)
            ranks[start:stop] = logits.shape[1] - found
    for turn in range(int(turns.max(initial=-1)) + 1):
        members = np.flatnonzero(turns == turn)
        index = torch.from_numpy(members).to(logits.device)
        rows = logits
        if len(members) < len(logits):
            rows = logits.index_select(0, torch.from_numpy(places[members]).to(logits.device))
        ranks[index] = (rows > target[index].unsqueeze(1)).sum(1)
    found_ranks: Ints = ranks.cpu().numpy()
    return found_ranks


def _by_row(places: Ints) -> Iterator[tuple[int, int, int]]:
    """Each row of ascending places, and where it starts and stops."""
    rows, starts = np.unique(places, return_index=True)
    stops = [*starts[1:].tolist(), len(places)]
    yield from zip(rows.tolist(), starts.tolist(), stops, strict=True)


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
