"""The plainest form of `LogitRows`, the reference for the others: whole rows, float64, full sorts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcmodel.logits import Bools, Floats, Ints, SampledRows, SamplePlan, ScoredRows


class PlainLogitRows:
    """Logits on the host, ``[R, vocab_size]`` float32."""

    def __init__(self, logits: Floats) -> None:
        self._logits = np.ascontiguousarray(logits, dtype=np.float32)

    def to_numpy(self) -> Floats:
        return self._logits

    def log_softmax(self, rows: Ints) -> Floats:
        logits = self._logits[rows]
        usable = _finite_rows(logits) & _possible_rows(logits)
        logprobs = _log_softmax(logits, usable)
        logprobs[~usable] = np.nan
        return logprobs

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        logits = self._logits[rows]
        is_finite = _finite_rows(logits) & _possible_rows(logits)
        logprobs = _log_softmax(logits, is_finite)
        target = np.take_along_axis(logits, targets[:, None], axis=1)
        logprob = np.take_along_axis(logprobs, targets[:, None], axis=1)[:, 0]
        return ScoredRows(
            logprob=np.where(is_finite, logprob, 0.0).astype(np.float32),
            rank=np.where(is_finite, (logits > target).sum(axis=1), 0),
            is_finite=is_finite,
            top=_top(logprobs, top_logprobs),
        )

    def sample(self, plan: SamplePlan) -> SampledRows:
        raw = self._logits[plan.rows]
        is_finite = _finite_rows(raw)
        allowed = _allowed(plan, raw.shape[1])
        has_choice = (allowed & (raw > -np.inf)).any(axis=1) & is_finite
        ok = has_choice & is_finite
        logits = _adjust(np.where(is_finite[:, None], raw, 0.0).astype(np.float32), plan)
        logits[~allowed] = -np.inf
        token_ids = np.where(ok, _draw(logits, plan, ok), -1)
        size = len(plan.rows)
        zeros = np.zeros(size, dtype=np.float32)
        result = SampledRows(
            token_ids=token_ids,
            is_finite=is_finite,
            has_choice=has_choice,
            raw_logprob=zeros,
            masked_logprob=zeros,
            log_mass=zeros,
            top_raw=_top(raw[:, :0], 0),
            top_masked=_top(raw[:, :0], 0),
        )
        if plan.want_logprobs or plan.top_logprobs:
            logprobs = _log_softmax(raw, is_finite & _possible_rows(raw))
            masked = np.where(allowed, logprobs, -np.inf)
            log_mass = np.where(plan.is_masked & ok, _log_sum_exp(masked, ok), 0.0).astype(np.float32)
            chosen = np.where(ok, token_ids, 0)[:, None]
            result.raw_logprob = np.where(ok, np.take_along_axis(logprobs, chosen, axis=1)[:, 0], 0.0)
            result.log_mass = log_mass
            result.masked_logprob = np.where(ok, result.raw_logprob - log_mass, 0.0)
            result.top_raw = _top(logprobs, plan.top_logprobs)
            result.top_masked = _top(masked - log_mass[:, None], plan.top_logprobs)
        return result


def _finite_rows(logits: Floats) -> Bools:
    """Rows without NaN and +inf; -inf is a legal logit."""
    finite: Bools = ~(np.isnan(logits) | (logits == np.inf)).any(axis=1)
    return finite


def _possible_rows(logits: Floats) -> Bools:
    """Rows in which a token is possible."""
    possible: Bools = (logits > -np.inf).any(axis=1)
    return possible


def _log_sum_exp(logits: Floats, usable: Bools) -> Floats:
    safe = np.where(usable[:, None], logits, 0.0).astype(np.float64)
    top = safe.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: Floats = (np.log(np.exp(safe - top).sum(axis=1)) + top[:, 0]).astype(np.float32)
    return total


def _log_softmax(logits: Floats, usable: Bools) -> Floats:
    """-inf in the rows that are not usable."""
    safe = np.where(usable[:, None], logits, 0.0).astype(np.float32)
    result: Floats = (safe - _log_sum_exp(safe, usable)[:, None]).astype(np.float32)
    result[~usable] = -np.inf
    return result


def _allowed(plan: SamplePlan, vocab_size: int) -> Bools:
    words = plan.bitmask.view(np.uint8).reshape(len(plan.rows), -1)
    bits = np.unpackbits(words, axis=1, bitorder="little")[:, :vocab_size]
    allowed = np.zeros((len(plan.rows), vocab_size), dtype=np.bool_)
    allowed[:, : bits.shape[1]] = bits
    allowed[~plan.is_masked] = True
    return allowed


def _adjust(logits: Floats, plan: SamplePlan) -> Floats:
    rows, ids, values = plan.repetition
    if rows.size:
        current = logits[rows, ids]
        logits[rows, ids] = np.where(current > 0, current / values, current * values)
    rows, ids, values = plan.bias
    if rows.size:
        logits[rows, ids] += values
    return logits


def _draw(logits: Floats, plan: SamplePlan, ok: Bools) -> Ints:
    drawn: Ints = logits.argmax(axis=1)
    for row in np.flatnonzero((plan.temperature > 0) & ok):
        scaled = logits[row].astype(np.float64) / float(plan.temperature[row])
        drawn[row] = _draw_one(
            scaled,
            int(plan.top_k[row]),
            float(plan.top_p[row]),
            float(plan.min_p[row]),
            float(plan.uniform[row]),
        )
    return drawn


def _draw_one(logits: NDArray[np.float64], top_k: int, top_p: float, min_p: float, u: float) -> int:
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits - logits[order[0]])
    if 0 < top_k < len(order):
        weights[order[top_k:]] = 0.0
    if top_p < 1.0:
        sorted_weights = weights[order]
        before = np.cumsum(sorted_weights) - sorted_weights
        weights[order[before >= top_p * sorted_weights.sum()]] = 0.0
    if min_p > 0.0:
        weights[weights < min_p * weights[order[0]]] = 0.0
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    # u * total may round up to the total: the last token with weight, then.
    return index if index < len(weights) else int(np.flatnonzero(weights)[-1])


def _top(logprobs: Floats, count: int) -> tuple[Ints, Floats]:
    count = min(count, logprobs.shape[1])
    if count == 0:
        empty = np.zeros((logprobs.shape[0], 0))
        return empty.astype(np.int64), empty.astype(np.float32)
    order = np.argsort(-logprobs, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(logprobs, order, axis=1)
    return np.where(values > -np.inf, order, -1), values
