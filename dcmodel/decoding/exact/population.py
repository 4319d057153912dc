"""Weights of particles as arrays of their logarithms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]


def log_mean(log_weights: Weights) -> float:
    """Log of the mean weight; -inf where all are 0."""
    top = float(log_weights.max())
    if top == -np.inf:
        return top
    return top + float(np.log(np.exp(log_weights - top).mean()))


def shares(log_weights: Weights) -> Weights:
    """Each one's share of all; at least one weight is above 0."""
    weights = np.exp(log_weights - log_weights.max())
    normalised: Weights = weights / weights.sum()
    return normalised


def effective_size(log_weights: Weights) -> float:
    """How many equal weights would vary as little: (sum of w)^2 / sum of w^2; 0 where all are 0."""
    if log_weights.max() == -np.inf:
        return 0.0
    return float(1.0 / np.square(shares(log_weights)).sum())


def systematic(log_weights: Weights, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many indices as there are weights, ascending.

    Each comes as often as its share of the number says, rounded up or down, and in expectation exactly so
    (Kitagawa 1996: one random number for all).
    """
    count = len(log_weights)
    cumulative = np.cumsum(shares(log_weights))
    pointers = (rng.random() + np.arange(count)) / count * cumulative[-1]
    chosen: NDArray[np.int64] = np.searchsorted(cumulative, pointers, side="right").astype(np.int64)
    return np.minimum(chosen, count - 1)
