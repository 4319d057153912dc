"""Operations on one row of logits, or on what a mask kept of it: one-dimensional, float32, without NaN."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dcmodel.logits import Floats, Ints

Doubles = NDArray[np.float64]

# Up to so many values, one sort is cheaper than looking for those that are worth sorting.
SMALL = 256
# Longer rows are folded into so many layers; the maxima over the layers bound the likeliest values.
LAYERS = 64


def relative_weights(values: Floats, largest: float, temperature: float, out: Floats) -> Floats:
    """``exp((values - largest) / temperature)``, written to `out`."""
    with np.errstate(over="ignore", under="ignore"):
        np.subtract(values, largest, out=out)
        if temperature != 1.0:
            np.divide(out, temperature, out=out)
        return np.exp(out, out=out)


def log_sum_exp(values: Floats) -> float:
    """The log of the sum of the exponentials; -inf where there is none."""
    largest = float(values.max(initial=-np.inf))
    if largest == -np.inf:
        return -math.inf
    weights = relative_weights(values, largest, 1.0, np.empty_like(values))
    return largest + math.log(weights.sum())


def top(values: Floats, count: int) -> Ints:
    """Positions of the `count` largest values (or all), largest first, ties by lower position."""
    size = len(values)
    if count >= size or size <= SMALL:
        order: Ints = np.argsort(-values, kind="stable")[:count]
        return order
    positions = (values >= _bound(values, count)).nonzero()[0]
    if len(positions) > 2 * count + SMALL:
        positions = trim(values, positions, count)
    order = np.argsort(-values[positions], kind="stable")[:count]
    return positions[order]


def trim(values: Floats, positions: Ints, count: int) -> Ints:
    """Of ascending positions, those of the `count` largest values, ties by lower position. The order is
    that of the positions, but for those of the least value, which come last."""
    part = values[positions]
    split = len(part) - count
    least = np.partition(part, split)[split]
    above = positions[part > least]
    level = positions[part == least]
    return np.concatenate([above, level[: count - len(above)]])


def _bound(values: Floats, count: int) -> np.float32:
    """A value that at least `count` values reach, and few more: 0 < count < len(values)."""
    columns = len(values) // LAYERS
    if 2 * count > columns:
        split = len(values) - count
        exact: np.float32 = np.partition(values, split)[split]
        return exact
    maxima = values[: columns * LAYERS].reshape(LAYERS, columns).max(axis=0)
    bound: np.float32 = np.partition(maxima, columns - count)[columns - count]
    return bound


def no_top(size: int, count: int) -> tuple[Ints, Floats]:
    """The likeliest tokens of `size` rows, none of which is known."""
    return np.full((size, count), -1, dtype=np.int64), np.full((size, count), -np.inf, dtype=np.float32)


def set_top(result: tuple[Ints, Floats], place: int, ids: Ints, logits: Floats, log_sum: float) -> None:
    """Write the likeliest tokens, likeliest first, into ``result[place]``; their logits less `log_sum`.
    What is impossible is no token."""
    values = logits[: result[0].shape[1]].astype(np.float64)
    count = int(np.count_nonzero(values > -np.inf))
    result[0][place, :count] = ids[:count]
    result[1][place, :count] = values[:count] - log_sum


def copy_top(
    source: tuple[Ints, Floats], place: int, target: tuple[Ints, Floats], places: int | Ints
) -> None:
    """Write the likeliest tokens of one row into others."""
    target[0][places] = source[0][place]
    target[1][places] = source[1][place]
