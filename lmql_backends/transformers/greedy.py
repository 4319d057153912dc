"""Greedy rows on the CPU that ask for nothing but a token: mostly one pass over each row."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcmodel.logits import Floats, SampledRows, SamplePlan
from lmql_backends.transformers.row_ops import BLOCK, block_max
from lmql_backends.transformers.scoring import no_top
from lmql_backends.transformers.token_masks import set_bits

# How many of the blocks with the largest maxima are searched for an allowed token before the whole row is.
LIKELY_BLOCKS = 64
# Where the mask allows fewer than one token in this many, the likeliest blocks would seldom hold one.
SPARSE = 32


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
        masks = _fitted(plan.bitmask, rows.shape[1])
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


def _fitted(bitmask: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """The masks with as many words as the padded rows need."""
    words = width // 32
    if bitmask.shape[1] == words:
        return bitmask
    fitted = np.zeros((bitmask.shape[0], words), dtype=np.int32)
    fitted[:, : bitmask.shape[1]] = bitmask[:, :words]
    return fitted


def _best_allowed(row: Floats, mask: NDArray[np.int32]) -> tuple[int, float]:
    """The lowest id with the largest allowed logit, and that logit; -inf where nothing is allowed."""
    if len(row) > LIKELY_BLOCKS * BLOCK and np.bitwise_count(mask).sum() * SPARSE >= len(row):
        maxima = block_max(torch.from_numpy(row).unsqueeze(0))[0].numpy()
        order = np.argpartition(maxima, -LIKELY_BLOCKS - 1)
        blocks = np.sort(order[-LIKELY_BLOCKS:])
        words = mask.reshape(-1, BLOCK // 32)[blocks].ravel()
        inside, value = _largest(row.reshape(-1, BLOCK)[blocks].ravel(), words)
        # An equal logit in another block may have a lower id.
        if value > maxima[order[-LIKELY_BLOCKS - 1]]:
            return int(blocks[inside // BLOCK]) * BLOCK + inside % BLOCK, value
    return _largest(row, mask)


def _largest(logits: Floats, mask: NDArray[np.int32]) -> tuple[int, float]:
    """The first place with the largest allowed logit, and that logit."""
    places = set_bits(mask, len(logits))
    if not places.size:
        return 0, -np.inf
    place = int(places[logits[places].argmax()])
    return place, float(logits[place])
