"""What penalties and logit bias do to the logits of one sequence."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from dcmodel.logits import Floats, Ints
from dcmodel.types import SamplingParams

Triples = tuple[Ints, Ints, Floats]
"""Flat (row, token id, value) arrays, as in `SamplePlan`."""


class LogitAdjustments:
    """Which tokens a sequence holds, how often, and what follows for their logits.

    Arrays grow by doubling, so that a step costs a slice and not a pass over the text.
    """

    def __init__(self, prompt_ids: tuple[int, ...], sampling: SamplingParams) -> None:
        self._sampling = sampling
        bias = sampling.logit_bias
        known = np.unique(np.array([*prompt_ids, *bias], dtype=np.int64))
        size = len(known)
        self._ids = np.zeros(2 * size + 64, dtype=np.int64)
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._bias = np.zeros(len(self._ids), dtype=np.float32)
        self._seen = np.zeros(len(self._ids), dtype=np.bool_)
        self._ids[:size] = known
        self._bias[:size] = [bias.get(token_id, 0.0) for token_id in known.tolist()]
        self._seen[:size] = np.isin(known, np.array(prompt_ids, dtype=np.int64))
        self._place = {token_id: place for place, token_id in enumerate(known.tolist())}

    @classmethod
    def for_request(cls, prompt_ids: tuple[int, ...], sampling: SamplingParams) -> LogitAdjustments | None:
        """None where neither penalties nor bias are asked for."""
        if sampling.has_penalties or sampling.logit_bias:
            return cls(prompt_ids, sampling)
        return None

    def add(self, token_id: int) -> None:
        """Count one token of the output."""
        if not self._sampling.has_penalties:
            return
        place = self._place.setdefault(token_id, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._bias = np.concatenate([self._bias, np.zeros_like(self._bias)])
            self._seen = np.concatenate([self._seen, np.zeros_like(self._seen)])
        self._ids[place] = token_id
        self._counts[place] += 1
        self._seen[place] = True

    def repeated(self) -> Ints:
        """Ids in prompt or output, each once; empty without a repetition penalty."""
        if self._sampling.repetition_penalty == 1.0:
            return self._ids[:0]
        size = len(self._place)
        return self._ids[:size][self._seen[:size]]

    def bias(self) -> tuple[Ints, Floats]:
        """Ids and what to add to their logits: logit bias, minus presence and frequency penalties."""
        size = len(self._place)
        counts = self._counts[:size]
        amount = self._bias[:size] - self._sampling.frequency_penalty * counts
        amount -= self._sampling.presence_penalty * (counts > 0)
        used = np.flatnonzero(amount)
        return self._ids[used], amount[used].astype(np.float32)


NOTHING: Triples = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def repetition_triples(adjustments: Seq[LogitAdjustments | None], params: Seq[SamplingParams]) -> Triples:
    """The repetition penalties of a batch, one row per sequence."""
    parts: list[Triples] = []
    for row, (adjustment, item) in enumerate(zip(adjustments, params, strict=True)):
        if adjustment is not None and (ids := adjustment.repeated()).size:
            values = np.full(len(ids), item.repetition_penalty, dtype=np.float32)
            parts.append((np.full(len(ids), row), ids, values))
    return _join(parts)


def bias_triples(adjustments: Seq[LogitAdjustments | None]) -> Triples:
    """What is added to the logits of a batch, one row per sequence."""
    parts: list[Triples] = []
    for row, adjustment in enumerate(adjustments):
        if adjustment is not None:
            ids, values = adjustment.bias()
            parts.append((np.full(len(ids), row), ids, values))
    return _join(parts)


def _join(parts: list[Triples]) -> Triples:
    if not parts:
        return NOTHING
    rows, ids, values = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(ids), np.concatenate(values)
