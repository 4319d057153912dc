"""Repetition penalties and biases on logits: given as (row, id, value) triples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Bools, Floats, Ints, SamplePlan

Triples = tuple[Ints, Ints, Floats]


def adjustments_of(plan: SamplePlan, rows: Ints) -> tuple[Triples, Triples]:
    """The repetition penalties and the biases of some rows (ascending), counted within those."""
    return _rows_of(plan.repetition, rows), _rows_of(plan.bias, rows)


def adjust_whole(logits: Tensor, penalties: Triples, biases: Triples) -> None:
    """Change whole rows ``[S, width]`` in place."""
    if len(penalties[0]):
        cells, values = _on_device(penalties, logits)
        current = logits[cells]
        logits[cells] = torch.where(current > 0, current / values, current * values)
    if len(biases[0]):
        cells, values = _on_device(biases, logits)
        logits[cells] += values


def adjust_few(logits: Floats, ids: Ints, is_real: Bools, penalties: Triples, biases: Triples) -> None:
    """Change in place ``[S, K]`` logits of the ascending `ids`, of which `is_real` count."""
    if len(penalties[0]):
        cells, values = _among(penalties, ids, is_real)
        current = logits[cells]
        logits[cells] = np.where(current > 0, current / values, current * values)
    if len(biases[0]):
        cells, values = _among(biases, ids, is_real)
        logits[cells] += values


def _rows_of(triples: Triples, rows: Ints) -> Triples:
    place = np.searchsorted(rows, triples[0])
    inside = rows[np.minimum(place, len(rows) - 1)] == triples[0]
    return place[inside], triples[1][inside], triples[2][inside]


def _on_device(triples: Triples, like: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    rows, ids, values = (torch.from_numpy(part).to(like.device) for part in triples)
    return (rows, ids), values


def _among(triples: Triples, ids: Ints, is_real: Bools) -> tuple[tuple[Ints, Ints], Floats]:
    """The cells of those triples whose ids are there, and their values."""
    rows, wanted, values = triples
    # Rows of ascending ids laid end to end ascend as well, once each has its own range of numbers.
    span = int(max(ids.max(initial=0), wanted.max(initial=0))) + 1
    row_of, column_of = np.nonzero(is_real)
    keys = row_of * span + ids[row_of, column_of]
    if not len(keys):
        return (rows[:0], rows[:0]), values[:0]
    place = np.minimum(np.searchsorted(keys, rows * span + wanted), len(keys) - 1)
    hits = keys[place] == rows * span + wanted
    return (row_of[place[hits]], column_of[place[hits]]), values[hits]
