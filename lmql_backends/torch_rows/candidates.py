"""Drawing from few candidates per row, on the host and in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dcmodel.logits import Bools, Floats, Ints, SamplePlan
from lmql_backends.torch_rows.row_ops import Doubles


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """The columns of a `SamplePlan` that say how to draw, for some of its rows."""

    temperature: Floats
    top_k: Ints
    top_p: Floats
    min_p: Floats
    uniform: Doubles

    @classmethod
    def of(cls, plan: SamplePlan, rows: Ints) -> DrawSettings:
        return cls(
            plan.temperature[rows], plan.top_k[rows], plan.top_p[rows], plan.min_p[rows], plan.uniform[rows]
        )

    def take(self, rows: Ints | Bools) -> DrawSettings:
        return DrawSettings(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows], self.uniform[rows]
        )


def draw(
    values: Doubles, ids: Ints, settings: DrawSettings, total: Doubles | None = None
) -> tuple[Ints, Bools]:
    """Draw one id per row, where the temperature is not 0.

    `values` [S, K] are logits (before the temperature), likeliest first and ties by lower id; -inf for
    none. They are all that a row has, or else `total` [S] gives the sum of ``exp((logit - first) / T)`` over
    the whole row. Returns the ids [S] and, for each row, whether K candidates were enough to decide.
    """
    first = np.where(np.isfinite(values[:, :1]), values[:, :1], 0.0)
    weights = np.exp((values - first) / settings.temperature.astype(np.float64)[:, None])
    has_top_k = settings.top_k > 0
    places = np.arange(values.shape[1])
    weights[has_top_k[:, None] & (places >= settings.top_k[:, None])] = 0.0
    cumulative = weights.cumsum(1)
    mass = cumulative[:, -1] if total is None else np.where(has_top_k, cumulative[:, -1], total)
    wanted = settings.top_p.astype(np.float64) * mass
    is_enough = (settings.top_k <= values.shape[1]) & (has_top_k | (cumulative[:, -1] >= wanted))
    if total is None:
        is_enough[:] = True
    cut = settings.top_p < 1
    weights[cut[:, None] & (cumulative - weights >= wanted[:, None])] = 0.0
    weights[weights < settings.min_p.astype(np.float64)[:, None] * weights[:, :1]] = 0.0
    return _pick(weights, ids, settings.uniform), is_enough


def _pick(weights: Doubles, ids: Ints, uniform: Doubles) -> Ints:
    """Where the cumulative distribution over ascending ids first exceeds `uniform`."""
    order = np.argsort(ids, axis=1)
    weights = np.take_along_axis(weights, order, 1)
    cumulative = weights.cumsum(1)
    place = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(1)
    last = weights.shape[1] - 1 - (weights[:, ::-1] > 0).argmax(1)
    place = np.minimum(place, last)
    return np.take_along_axis(np.take_along_axis(ids, order, 1), place[:, None], 1)[:, 0]
