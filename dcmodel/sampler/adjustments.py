"""Penalties and biases of a `SamplePlan`, row by row."""

from __future__ import annotations

import numpy as np

from dcmodel.logits import Bools, Floats, Ints, SamplePlan


class Adjustments:
    """The triples of a plan, sorted by row."""

    def __init__(self, plan: SamplePlan) -> None:
        size = len(plan.rows)
        self.any: Bools = np.zeros(size, dtype=np.bool_)
        """[S] whether the row's logits are adjusted."""
        self._repetition = _by_row(*plan.repetition, size)
        self._bias = _by_row(*plan.bias, size)
        for rows in (plan.repetition[0], plan.bias[0]):
            self.any[rows] = True

    def apply(self, place: int, values: Floats, ids: Ints | None) -> None:
        """Adjust row `place` in place; `ids` (ascending) are those of the values if not their positions."""
        at, factors = _of_row(self._repetition, place, ids)
        if len(at):
            current = values[at]
            values[at] = np.where(current > 0, current / factors, current * factors)
        at, added = _of_row(self._bias, place, ids)
        if len(at):
            values[at] += added


_ByRow = tuple[Ints, Ints, Floats]
"""Where each row's pairs begin, and all ids and values."""


def _by_row(rows: Ints, ids: Ints, values: Floats, size: int) -> _ByRow:
    if not len(rows):
        return np.zeros(size + 1, dtype=np.int64), ids, values
    order = np.argsort(rows, kind="stable")
    return np.searchsorted(rows[order], np.arange(size + 1)), ids[order], values[order]


def _of_row(pairs: _ByRow, place: int, ids: Ints | None) -> tuple[Ints, Floats]:
    """Positions and values of one row's pairs, without those that are not among `ids`."""
    bounds, all_ids, all_values = pairs
    start, stop = int(bounds[place]), int(bounds[place + 1])
    at, values = all_ids[start:stop], all_values[start:stop]
    if ids is None or not len(at):
        return at, values
    positions = np.minimum(np.searchsorted(ids, at), len(ids) - 1)
    is_there = ids[positions] == at
    return positions[is_there], values[is_there]
