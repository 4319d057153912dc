"""Reductions over rows of logits that are padded with -inf to whole blocks.

A block's maximum is one cheap pass; most of what is asked of a row (its argmax, its likeliest tokens,
where a cumulative sum crosses a number) then concerns a few blocks only.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcmodel.logits import Ints

BLOCK = 128
Doubles = NDArray[np.float64]


def padded_width(vocab_size: int) -> int:
    """`vocab_size`, rounded up to whole blocks."""
    return -(-vocab_size // BLOCK) * BLOCK


def block_max(rows: Tensor) -> Tensor:
    """[S, blocks] from [S, width]; NaN where a block holds one."""
    return rows.view(rows.shape[0], rows.shape[1] // BLOCK, BLOCK).amax(-1)


def first_argmax(rows: Tensor, maxima: Tensor) -> Tensor:
    """[S] the lowest id with the largest logit. `maxima` is `block_max` of the rows."""
    blocks = maxima.argmax(1)
    within = _blocks(rows, blocks.unsqueeze(1)).argmax(1)
    return blocks * BLOCK + within


def log_sum_exp(rows: Tensor, largest: Tensor, scratch: Tensor) -> Tensor:
    """[S] from [S, width] and the rows' maxima [S]; `scratch` is overwritten with the softmax."""
    torch.softmax(rows, dim=1, out=scratch)
    # softmax of the maximum is 1 / sum(exp(x - max)): the fused kernel is twice as fast as logsumexp.
    return largest - block_max(scratch).amax(1).log()


def top(rows: Tensor, maxima: Tensor, count: int) -> tuple[Ints, Doubles]:
    """The `count` likeliest ids of each row and their logits [S, count], ties by lower id."""
    width = rows.shape[1]
    count = min(count, width)
    # One more shows whether a tie straddles the end.
    wanted = min(count + 1, width)
    blocks: Tensor | None = None
    candidates = rows
    if 2 * wanted * BLOCK <= width:
        # The likeliest `wanted` ids lie in as many blocks, those with the largest maxima (ties: the first).
        blocks = _top_stable(maxima, wanted)
        candidates = _blocks(rows, blocks)
    values, places = candidates.topk(wanted, dim=1)
    ids = places if blocks is None else blocks.gather(1, places // BLOCK) * BLOCK + places % BLOCK
    host_values, host_ids = values.cpu().double().numpy(), ids.cpu().numpy()
    if wanted > count:
        _settle_ties(rows, host_values, host_ids, count)
        host_values, host_ids = host_values[:, :count], host_ids[:, :count]
    order = np.lexsort((host_ids, -host_values), axis=1)
    return np.take_along_axis(host_ids, order, 1), np.take_along_axis(host_values, order, 1)


def inverse_cdf(weights: Tensor, uniform: Doubles) -> Ints:
    """[S] the id at which the cumulative sum of a row's weights [S, width] first exceeds its uniform number
    times the row's sum. Weights are not negative; each row has a positive one."""
    rows = np.arange(weights.shape[0])
    sums = weights.view(weights.shape[0], weights.shape[1] // BLOCK, BLOCK).sum(-1).cpu().double().numpy()
    block, target = _first_above(sums, uniform)
    chosen = _blocks(weights, torch.from_numpy(block).to(weights.device).unsqueeze(1)).cpu().double().numpy()
    before = sums.cumsum(1)[rows, block] - sums[rows, block]
    cumulative = chosen.cumsum(1)
    within = (cumulative <= (target - before)[:, None]).sum(1)
    # The block's own sum was rounded: past the last weight means the last weight.
    last = BLOCK - 1 - (chosen[:, ::-1] > 0).argmax(1)
    drawn: Ints = block * BLOCK + np.minimum(within, last)
    return drawn


def _first_above(weights: Doubles, uniform: Doubles) -> tuple[Ints, Doubles]:
    """Per row: the first place where the cumulative sum exceeds ``uniform * sum``, and that number."""
    cumulative = weights.cumsum(1)
    target = uniform * cumulative[:, -1]
    place = (cumulative <= target[:, None]).sum(1)
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)
    return np.minimum(place, last), target


def _blocks(rows: Tensor, blocks: Tensor) -> Tensor:
    """[S, n * BLOCK]: `n` chosen blocks [S, n] of each row, side by side."""
    per_row = rows.shape[1] // BLOCK
    offsets = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) * per_row
    return rows.view(-1, BLOCK).index_select(0, (blocks + offsets).flatten()).view(rows.shape[0], -1)


def _top_stable(values: Tensor, count: int) -> Tensor:
    """[S, count] places of the largest values, ties by lower place."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _settle_ties(rows: Tensor, values: Doubles, ids: Ints, count: int) -> None:
    """Where the value at the end of the first `count` occurs beyond it, take the lowest ids with it."""
    threshold = values[:, count - 1]
    for row in np.flatnonzero((threshold == values[:, count]) & (threshold > -np.inf)):
        above = int((values[row, :count] > threshold[row]).sum())
        tied = (rows[row] == float(threshold[row])).nonzero()[:, 0].cpu().numpy()
        order = np.argsort(-values[row, :count], kind="stable")
        ids[row, :count] = ids[row, order]
        values[row, :count] = values[row, order]
        ids[row, above:count] = tied[: count - above]
