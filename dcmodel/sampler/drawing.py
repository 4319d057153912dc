"""Drawing one token with a temperature, without sorting the row.

The cuts are made in double precision among the likeliest tokens; sums over whole rows are made of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dcmodel.logits import Floats, Ints
from dcmodel.sampler.row_ops import SMALL, Doubles, top, trim

# How many of the likeliest tokens top-p looks at before it looks at more.
FIRST_CANDIDATES = 64
# A whole row is searched in blocks of so many tokens.
BLOCK = 128
# Bounds that are found in float32 are widened by so much.
SLACK = 1e-5
LOWEST = float(np.finfo(np.float32).min)


WeightsOf = Callable[[Floats, float, float], Floats]
"""``exp((values - largest) / temperature)`` of values, the largest of them, and a temperature; to be read."""


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How to draw from one row; see `SamplePlan`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


def draw(values: Floats, largest: float, settings: DrawSettings, weights_of: WeightsOf) -> int:
    """The position of the token that is drawn. `largest` is the largest of the values, and finite."""
    size = len(values)
    has_top_k = 0 < settings.top_k < size
    if has_top_k or size <= SMALL:
        order = top(values, settings.top_k if has_top_k else size)
        weights = _weights(values[order], largest, settings)
        count = _count_kept(weights, float(weights.sum()), settings)
        return _pick_unordered(order[:count], weights[:count], settings.uniform)
    if settings.top_p < 1.0:
        return _draw_nucleus(values, largest, settings, weights_of)
    if settings.min_p > 0.0:
        return _draw_above(values, largest, settings)
    return _draw_any(values, largest, settings, weights_of)


def _draw_nucleus(values: Floats, largest: float, settings: DrawSettings, weights_of: WeightsOf) -> int:
    all_weights = weights_of(values, largest, settings.temperature)
    total = float(all_weights.sum())
    order = top(values, FIRST_CANDIDATES)
    weights = _weights(values[order], largest, settings)
    if weights.sum() >= settings.top_p * total:
        count = _count_kept(weights, total, settings)
        return _pick_unordered(order[:count], weights[:count], settings.uniform)
    # All tokens below this bound together are less than what top-p leaves out.
    bound = (1.0 - settings.top_p) * total / len(values) * (1.0 - SLACK)
    positions = np.flatnonzero(all_weights >= bound)
    descending = np.sort(all_weights[positions])[::-1]
    before = np.cumsum(descending, dtype=np.float64) - descending
    count = max(1, _count_true(before < settings.top_p * total))
    kept = np.sort(trim(values, positions, count))
    weights = _weights(values[kept], largest, settings)
    weights[weights < settings.min_p] = 0.0
    return _pick(kept, weights, settings.uniform)


def _draw_above(values: Floats, largest: float, settings: DrawSettings) -> int:
    """Only min-p: what is kept is known by its logit."""
    bound = largest + settings.temperature * math.log(settings.min_p)
    bound = max(bound - SLACK * (1.0 + abs(bound)), LOWEST)
    positions = np.flatnonzero(values >= bound)
    weights = _weights(values[positions], largest, settings)
    is_kept = weights >= settings.min_p
    return _pick(positions[is_kept], weights[is_kept], settings.uniform)


def _draw_any(values: Floats, largest: float, settings: DrawSettings, weights_of: WeightsOf) -> int:
    """From the whole distribution: first the block, then the token in it."""
    weights = weights_of(values, largest, settings.temperature)
    sums = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK))
    cumulative = np.cumsum(sums, dtype=np.float64)
    wanted = settings.uniform * cumulative[-1]
    block = int(np.searchsorted(cumulative, wanted, side="right"))
    if block == len(cumulative):
        return int(np.flatnonzero(weights)[-1])
    start = block * BLOCK
    before = cumulative[block - 1] if block else 0.0
    part = _weights(values[start : start + BLOCK], largest, settings)
    place = int(np.searchsorted(before + np.cumsum(part), wanted, side="right"))
    return start + (place if place < len(part) else int(np.flatnonzero(part)[-1]))


def _weights(values: Floats, largest: float, settings: DrawSettings) -> Doubles:
    """In proportion to the probabilities; that of the largest is 1."""
    scaled = values.astype(np.float64)
    scaled /= settings.temperature
    scaled -= largest / settings.temperature
    weights: Doubles = np.exp(scaled, out=scaled)
    return weights


def _count_kept(weights: Doubles, total: float, settings: DrawSettings) -> int:
    """How many of the likeliest tokens (`weights` descend) top-p and min-p keep: at least one."""
    count = len(weights)
    if settings.top_p < 1.0:
        before = np.cumsum(weights) - weights
        count = _count_true(before < settings.top_p * total)
    if settings.min_p > 0.0:
        count = min(count, _count_true(weights >= settings.min_p * weights[0]))
    return max(1, count)


def _count_true(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """How many flags are set before the first that is not."""
    return len(flags) if flags.all() else int(flags.argmin())


def _pick_unordered(positions: Ints, weights: Doubles, uniform: float) -> int:
    order = np.argsort(positions)
    return _pick(positions[order], weights[order], uniform)


def _pick(positions: Ints, weights: Doubles, uniform: float) -> int:
    """Where the cumulative distribution over ascending positions first exceeds `uniform`."""
    cumulative = np.cumsum(weights)
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    # uniform * total may round up to the total: the last token with weight, then.
    return int(positions[place if place < len(weights) else np.flatnonzero(weights)[-1]])
