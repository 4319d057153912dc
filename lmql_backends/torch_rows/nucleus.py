"""Top-p where the nucleus is large: by a threshold on the weights, found by bisection, without sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Floats
from lmql_backends.torch_rows.row_ops import Doubles

# Halvings of the range of logits; what is left between the bounds is a handful of tokens.
HALVINGS = 14
# Weights below exp(-LOG_RANGE) of the largest are no part of any nucleus but one of all tokens.
LOG_RANGE = 88.0


def keep_nucleus(weights: Tensor, top_p: Floats, scratch: Tensor) -> None:
    """Set to 0, in place, what is outside the smallest set of likeliest tokens with a share `top_p`.

    `weights` [S, width] are not negative, the largest of each row is 1. `scratch` is of the same shape.
    """
    wanted = top_p.astype(np.float64) * weights.sum(1).cpu().double().numpy()
    low, high = np.full(len(wanted), -LOG_RANGE), np.full(len(wanted), 1e-6)
    above = np.zeros(len(wanted))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        mass = _mass_from(weights, _column(middle, weights), scratch)
        is_enough = mass >= wanted
        low = np.where(is_enough, middle, low)
        high = np.where(is_enough, high, middle)
        above = np.where(is_enough, above, mass)
    is_border = (weights >= _column(low, weights)) & (weights < _column(high, weights))
    cells = is_border.nonzero()
    values = weights[is_border]
    weights.masked_fill_(weights < _column(high, weights), 0.0)
    rows, ids = cells.cpu().numpy().T
    kept = _likeliest(rows, ids, values.cpu().double().numpy(), wanted - above)
    chosen = torch.from_numpy(kept).to(weights.device)
    weights[cells[chosen, 0], cells[chosen, 1]] = values[chosen]


def _mass_from(weights: Tensor, threshold: Tensor, scratch: Tensor) -> Doubles:
    """[S] the sum of the weights that reach the threshold."""
    torch.ge(weights, threshold, out=scratch)
    mass: Doubles = scratch.mul_(weights).sum(1).cpu().double().numpy()
    return mass


def _column(logs: Doubles, like: Tensor) -> Tensor:
    return torch.from_numpy(np.exp(logs).astype(np.float32)).to(like.device).unsqueeze(1)


def _likeliest(
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    ids: np.ndarray[tuple[int], np.dtype[np.int64]],
    values: Doubles,
    missing: Doubles,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which entries (likeliest first, ties by lower id) each row needs to gain the mass that it misses."""
    order = np.lexsort((ids, -values, rows))
    sorted_rows, sorted_values = rows[order], values[order]
    total = np.cumsum(sorted_values)
    starts = np.searchsorted(sorted_rows, sorted_rows)
    before = total - sorted_values
    before -= before[starts] if len(starts) else 0.0
    return order[before < missing[sorted_rows]]
