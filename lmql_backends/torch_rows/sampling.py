"""One call of `sample`: which rows are drawn how, and their log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Bools, Floats, Ints, SampledRows, SamplePlan
from lmql_backends.torch_rows.adjustments import adjust_few, adjust_whole, adjustments_of
from lmql_backends.torch_rows.candidates import DrawSettings, draw
from lmql_backends.torch_rows.nucleus import keep_nucleus
from lmql_backends.torch_rows.row_ops import (
    Doubles,
    block_max,
    first_argmax,
    inverse_cdf,
    log_sum_exp,
    top,
)
from lmql_backends.torch_rows.scoring import finite_rows, no_top, top_of
from lmql_backends.torch_rows.token_masks import allowed_ids, count_allowed, few_of
from lmql_backends.torch_rows.workspace import Workspace

# How many of the likeliest tokens top-p looks at before it looks at all.
FIRST_CANDIDATES = 32
# Below this share of the probability, what a mask keeps is added up anew, relative to its largest part.
LEAST_MASS = 1e-30


class Sampling:
    """One call of `sample`: rows with few allowed tokens on the host, the others whole."""

    def __init__(self, raw: Tensor, plan: SamplePlan, workspace: Workspace, vocab_size: int) -> None:
        self._raw = raw
        self._plan = plan
        self._workspace = workspace
        self._vocab_size = vocab_size
        size = len(plan.rows)
        self._maxima = block_max(raw)
        self._largest = self._maxima.amax(1)
        self._is_finite = finite_rows(self._largest)
        self._wants_logprobs = bool(plan.want_logprobs or plan.top_logprobs)
        self._top_count = min(plan.top_logprobs, vocab_size)
        self._total = np.zeros(size)
        self._token_ids = np.full(size, -1, dtype=np.int64)
        self._has_choice = np.zeros(size, dtype=np.bool_)
        self._log_mass = np.zeros(size)
        self._top_raw = no_top(size, self._top_count)
        self._top_masked = no_top(size, self._top_count)

    def run(self) -> SampledRows:
        plan = self._plan
        size = len(plan.rows)
        if self._wants_logprobs and size:
            scratch = self._workspace.rows("scratch", *self._raw.shape)
            self._total = log_sum_exp(self._raw, self._largest, scratch).cpu().double().numpy()
        if self._top_count and size:
            self._top_raw = top_of(
                top(self._raw, self._maxima, self._top_count), self._total, self._is_finite
            )
        is_few = plan.is_masked & (count_allowed(plan.bitmask) <= few_of(self._vocab_size))
        if is_few.any():
            self._sample_few(np.flatnonzero(is_few))
        if not is_few.all():
            self._sample_whole(np.flatnonzero(~is_few))
        ok = self._has_choice & self._is_finite
        self._token_ids[~ok] = -1
        return SampledRows(
            token_ids=self._token_ids,
            is_finite=self._is_finite,
            has_choice=ok,
            **self._logprobs(ok),
            top_raw=self._top_raw,
            top_masked=self._top_masked,
        )

    def _logprobs(self, ok: Bools) -> dict[str, Floats]:
        zeros = np.zeros(len(ok), dtype=np.float32)
        if not self._wants_logprobs or not ok.any():
            return {"raw_logprob": zeros, "log_mass": zeros, "masked_logprob": zeros}
        tokens = torch.from_numpy(np.where(ok, self._token_ids, 0)).to(self._raw.device)
        chosen = self._raw.gather(1, tokens.unsqueeze(1))[:, 0].cpu().double().numpy()
        raw = np.where(ok, chosen - self._total, 0.0)
        mass = np.where(ok & self._plan.is_masked, self._log_mass, 0.0)
        return {
            "raw_logprob": raw.astype(np.float32),
            "log_mass": mass.astype(np.float32),
            "masked_logprob": (raw - mass).astype(np.float32),
        }

    def _sample_few(self, rows: Ints) -> None:
        """Rows whose masks allow few tokens: only those are looked at."""
        ids, is_real = allowed_ids(self._plan.bitmask[rows], self._vocab_size)
        index = torch.from_numpy(rows[:, None] * self._raw.shape[1] + ids).to(self._raw.device)
        values = self._raw.view(-1).take(index).cpu().numpy()
        values[~is_real] = -np.inf
        self._has_choice[rows] = (values > -np.inf).any(axis=1)
        if self._wants_logprobs:
            mass = _log_sums(values.astype(np.float64))
            self._log_mass[rows] = mass - self._total[rows]
        if self._top_count:
            self._set_top_masked(rows, *_sorted(ids, values.astype(np.float64)), mass)
        penalties, biases = adjustments_of(self._plan, rows)
        if len(penalties[0]) or len(biases[0]):
            adjust_few(values, ids, is_real, penalties, biases)
        settings = DrawSettings.of(self._plan, rows)
        drawn = ids[np.arange(len(rows)), values.argmax(axis=1)]
        hot = np.flatnonzero(settings.temperature > 0)
        if hot.size:
            sorted_ids, sorted_values = _sorted(ids[hot], values[hot].astype(np.float64))
            drawn[hot] = draw(sorted_values, sorted_ids, settings.take(hot))[0]
        self._token_ids[rows] = drawn

    def _set_top_masked(self, rows: Ints, ids: Ints, values: Doubles, mass: Doubles) -> None:
        """`ids` and `values` [n, any] sorted, `mass` [n] the log of the sum of their exponentials."""
        count = min(self._top_count, ids.shape[1])
        renormalised = (ids[:, :count], values[:, :count])
        found = top_of(renormalised, mass, self._is_finite[rows])
        self._top_masked[0][rows, :count], self._top_masked[1][rows, :count] = found

    def _sample_whole(self, rows: Ints) -> None:
        """Rows that may draw from much of the vocabulary."""
        plan = self._plan
        logits, maxima = self._raw, self._maxima
        if len(rows) < len(plan.rows):
            index = torch.from_numpy(rows).to(logits.device)
            logits, maxima = logits.index_select(0, index), maxima.index_select(0, index)
        is_masked = plan.is_masked[rows]
        penalties, biases = adjustments_of(plan, rows)
        is_adjusted = bool(len(penalties[0]) or len(biases[0]))
        if is_masked.any():
            work = self._workspace.rows("work", *logits.shape)
            self._workspace.masks.fill(plan.bitmask[rows], is_masked, work)
            mass = self._kept_mass(rows, work) if self._wants_logprobs else None
            work += logits
            logits = work
            if mass is not None:
                self._note_mass(rows, is_masked, mass, logits)
        elif is_adjusted:
            logits = self._workspace.rows("work", *logits.shape).copy_(logits)
        if self._top_count:
            found = top(logits, block_max(logits), self._top_count)
            self._set_top_masked(rows, *found, self._log_mass[rows] + self._total[rows])
        if is_adjusted:
            adjust_whole(logits, penalties, biases)
        if logits.device.type == "cpu" and not plan.temperature[rows].any():
            # For one pass over the row, blocks are a detour.
            host = logits.numpy()
            best = host.argmax(axis=1)
            self._token_ids[rows] = best
            self._has_choice[rows] = host[np.arange(len(rows)), best] > -np.inf
            return
        if is_adjusted or is_masked.any():
            maxima = block_max(logits)
        largest = maxima.amax(1)
        self._has_choice[rows] = (largest > float("-inf")).cpu().numpy()
        self._token_ids[rows] = self._draw_whole(rows, logits, maxima, largest)

    def _kept_mass(self, rows: Ints, masks: Tensor) -> Doubles:
        """[n] the raw probability that masks [n, width] of 0 and -inf keep. Uses up the raw softmax."""
        kept = self._workspace.rows("scratch", *self._raw.shape)
        (kept,) = _take(rows, kept)
        mass: Doubles = kept.add_(masks).relu_().sum(1).cpu().double().numpy()
        return mass

    def _note_mass(self, rows: Ints, is_masked: Bools, mass: Doubles, logits: Tensor) -> None:
        """`logits` are those after the mask and before the adjustments."""
        log_mass = np.minimum(np.log(mass), 0.0)
        # Where hardly anything is kept, single precision has lost it.
        lost = np.flatnonzero(~(mass > LEAST_MASS))
        if lost.size:
            (part,) = _take(lost, logits)
            scratch = self._workspace.rows("scratch", *part.shape)
            found = log_sum_exp(part, part.amax(1), scratch)
            log_mass[lost] = found.cpu().double().numpy() - self._total[rows[lost]]
        self._log_mass[rows] = np.where(is_masked, log_mass, 0.0)

    def _draw_whole(self, rows: Ints, logits: Tensor, maxima: Tensor, largest: Tensor) -> Ints:
        settings = DrawSettings.of(self._plan, rows)
        hot = settings.temperature > 0
        cuts = hot & ((settings.top_k > 0) | (settings.top_p < 1))
        drawn = np.zeros(len(rows), dtype=np.int64)
        greedy = np.flatnonzero(~hot)
        if greedy.size:
            drawn[greedy] = first_argmax(*_take(greedy, logits, maxima)).cpu().numpy()
        free = np.flatnonzero(hot & ~cuts)
        if free.size:
            drawn[free] = self._draw_free(settings.take(free), *_take(free, logits, largest))
        cut = np.flatnonzero(cuts)
        if cut.size:
            drawn[cut] = self._draw_cut(settings.take(cut), *_take(cut, logits, maxima))
        return drawn

    def _weights(self, settings: DrawSettings, logits: Tensor, largest: Tensor) -> Tensor:
        """In proportion to ``exp(logit / T)``, sum 1, in the buffer "work-2"."""
        scaled = self._workspace.rows("scratch", *logits.shape)
        torch.sub(logits, largest.unsqueeze(1), out=scaled)
        if (settings.temperature != 1).any():
            scaled.div_(torch.from_numpy(settings.temperature).to(logits.device).unsqueeze(1))
        # Not `exp`, which takes five times as long for -inf on many a CPU.
        return torch.softmax(scaled, dim=1, out=self._workspace.rows("work-2", *logits.shape))

    def _draw_free(self, settings: DrawSettings, logits: Tensor, largest: Tensor) -> Ints:
        """Neither top-k nor top-p: from the whole distribution, or what min-p leaves of it."""
        weights = self._weights(settings, logits, largest)
        if (settings.min_p > 0).any():
            self._apply_min_p(settings, weights.div_(weights.amax(1, keepdim=True)))
        return inverse_cdf(weights, settings.uniform)

    def _draw_cut(self, settings: DrawSettings, logits: Tensor, maxima: Tensor) -> Ints:
        """Top-k or top-p: from the likeliest tokens, where these are enough to know what is kept."""
        largest = maxima.amax(1)
        total: Doubles | None = None
        if (settings.top_k == 0).any():
            total = 1 / self._weights(settings, logits, largest).amax(1).cpu().double().numpy()
        count = max(FIRST_CANDIDATES, int(settings.top_k.max()))
        ids, values = top(logits, maxima, count)
        drawn, is_enough = draw(values, ids, settings, total)
        # A row without a choice has no sum; what is drawn for it is dropped.
        left = np.flatnonzero(~is_enough & np.isfinite(values[:, 0]))
        if left.size:
            drawn[left] = self._draw_nucleus(settings.take(left), *_take(left, logits, largest))
        return drawn

    def _draw_nucleus(self, settings: DrawSettings, logits: Tensor, largest: Tensor) -> Ints:
        """Top-p, without top-k, that keeps many tokens."""
        weights = self._weights(settings, logits, largest)
        weights.div_(weights.amax(1, keepdim=True))
        keep_nucleus(weights, settings.top_p, self._workspace.rows("scratch", *weights.shape))
        self._apply_min_p(settings, weights)
        return inverse_cdf(weights, settings.uniform)

    def _apply_min_p(self, settings: DrawSettings, weights: Tensor) -> None:
        if (settings.min_p > 0).any():
            floor = torch.from_numpy(settings.min_p).to(weights.device).unsqueeze(1)
            weights.masked_fill_(weights < floor, 0.0)


def _take(rows: Ints, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Chosen rows of each tensor; the tensors themselves if that is all rows."""
    if len(rows) == tensors[0].shape[0]:
        return tensors
    index = torch.from_numpy(rows).to(tensors[0].device)
    return tuple(tensor.index_select(0, index) for tensor in tensors)


def _log_sums(values: Doubles) -> Doubles:
    """[S] log of the sum of the exponentials of a row; NaN where there is no finite value."""
    largest = values.max(axis=1)
    sums: Doubles = largest + np.log(np.exp(values - largest[:, None]).sum(axis=1))
    return sums


def _sorted(ids: Ints, values: Doubles) -> tuple[Ints, Doubles]:
    """Likeliest first; ids ascend, so a stable sort keeps ties by lower id."""
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)
