"""Log-probabilities in frames. JSON has no infinities: two finite numbers, which no log-probability ever is,
stand for "impossible" and "not known"."""

from __future__ import annotations

import math
import sys

IMPOSSIBLE = -sys.float_info.max
"""Minus infinity. A reader that knows nothing of this computes the same: ``exp`` gives 0."""
UNKNOWN = sys.float_info.max
"""NaN."""


def to_wire(value: float) -> float:
    if math.isfinite(value):
        return value
    return IMPOSSIBLE if value == -math.inf else UNKNOWN


def from_wire(value: float) -> float:
    if IMPOSSIBLE < value < UNKNOWN:
        return value
    return -math.inf if value <= IMPOSSIBLE else math.nan


def all_to_wire(values: list[float]) -> list[float]:
    """`values` itself where all are finite."""
    return values if math.isfinite(sum(values)) else [to_wire(value) for value in values]


def all_from_wire(values: list[float]) -> list[float]:
    """`values` itself where all are what they say."""
    if not values or (min(values) > IMPOSSIBLE and max(values) < UNKNOWN):
        return values
    return [from_wire(value) for value in values]
