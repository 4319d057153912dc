"""The rows of logits of a forward, in torch: masks, draws, log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Bools, Floats, Ints, SampledRows, SamplePlan, ScoredRows
from lmql_backends.transformers.candidates import DrawSettings, draw
from lmql_backends.transformers.row_ops import (
    Doubles,
    block_max,
    first_argmax,
    inverse_cdf,
    log_sum_exp,
    padded_width,
    top,
)
from lmql_backends.transformers.token_masks import FEW, MaskAdder, allowed_ids, count_allowed

# How many likeliest tokens `top_p` looks at first, and how fast it looks at more.
FIRST_CANDIDATES = 32
CANDIDATE_GROWTH = 8
# Rows scored at a time.
SCORED_ROWS = 64
# From this many targets in one row on, sorting the row is cheaper than comparing with each.
MANY_TARGETS = 64

Triples = tuple[Ints, Ints, Floats]


class Workspace:
    """Buffers that outlive a step: the page faults of fresh memory cost more than the arithmetic."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.masks = MaskAdder(device)
        self._buffers: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, width: int) -> Tensor:
        """An uninitialised float32 ``[count, width]``; the same memory at each call with this name."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < count * width:
            buffer = torch.empty(count * width, dtype=torch.float32, device=self.device)
            self._buffers[name] = buffer
        return buffer[: count * width].view(count, width)


class TorchLogitRows:
    """Logits ``[R, vocab_size]`` of any float type, on any device."""

    def __init__(self, logits: Tensor, workspace: Workspace) -> None:
        self._logits = logits
        self._workspace = workspace

    def to_numpy(self) -> Floats:
        rows: Floats = self._logits.float().cpu().numpy()
        return rows

    def sample(self, plan: SamplePlan) -> SampledRows:
        with torch.inference_mode(), np.errstate(all="ignore"):
            return _Sampling(self._padded(plan.rows), plan, self._workspace, self._logits.shape[1]).run()

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        count = min(top_logprobs, self._logits.shape[1])
        result = ScoredRows(
            logprob=np.zeros(len(rows), dtype=np.float32),
            rank=np.zeros(len(rows), dtype=np.int64),
            is_finite=np.zeros(len(rows), dtype=np.bool_),
            top=_no_top(len(rows), count),
        )
        distinct, places = np.unique(rows, return_inverse=True)
        with torch.inference_mode(), np.errstate(all="ignore"):
            for start in range(0, len(distinct), SCORED_ROWS):
                members = np.flatnonzero((places >= start) & (places < start + SCORED_ROWS))
                self._score(
                    distinct[start : start + SCORED_ROWS],
                    places[members] - start,
                    targets[members],
                    members,
                    result,
                )
        return result

    def _score(self, rows: Ints, places: Ints, targets: Ints, members: Ints, result: ScoredRows) -> None:
        """Score `targets` in ``rows[places]``; results go to ``result[members]``."""
        logits = self._padded(rows)
        maxima = block_max(logits)
        largest = maxima.amax(1)
        scratch = self._workspace.rows("scratch", *logits.shape)
        total = log_sum_exp(logits, largest, scratch).double().cpu().numpy()
        is_finite = _is_finite(largest)
        place_index = torch.from_numpy(places).to(logits.device)
        target = logits[place_index, torch.from_numpy(targets).to(logits.device)]
        logprob = target.double().cpu().numpy() - total[places]
        result.is_finite[members] = is_finite[places]
        result.logprob[members] = np.where(is_finite[places], logprob, 0.0)
        result.rank[members] = _ranks(logits, places, target, scratch)
        count = result.top[0].shape[1]
        if count:
            ids, values = _top_logprobs(top(logits, maxima, count), total, is_finite)
            result.top[0][members], result.top[1][members] = ids[places], values[places]

    def _padded(self, rows: Ints) -> Tensor:
        """Chosen rows as float32 with -inf past the vocabulary, in the workspace."""
        vocab_size = self._logits.shape[1]
        padded = self._workspace.rows("raw", len(rows), padded_width(vocab_size))
        padded[:, vocab_size:] = float("-inf")
        if len(rows) == self._logits.shape[0] and (rows == np.arange(len(rows))).all():
            padded[:, :vocab_size].copy_(self._logits)
        else:
            index = torch.from_numpy(rows).to(self._logits.device)
            padded[:, :vocab_size].copy_(self._logits.index_select(0, index))
        return padded


class _Sampling:
    """One call of `sample`: rows with few allowed tokens on the host, the others whole."""

    def __init__(self, raw: Tensor, plan: SamplePlan, workspace: Workspace, vocab_size: int) -> None:
        self._raw = raw
        self._plan = plan
        self._workspace = workspace
        self._vocab_size = vocab_size
        size = len(plan.rows)
        self._maxima = block_max(raw)
        self._largest = self._maxima.amax(1)
        self._is_finite = _is_finite(self._largest)
        self._wants_logprobs = bool(plan.want_logprobs or plan.top_logprobs)
        self._top_count = min(plan.top_logprobs, vocab_size)
        self._total = np.zeros(size)
        self._token_ids = np.full(size, -1, dtype=np.int64)
        self._has_choice = np.zeros(size, dtype=np.bool_)
        self._log_mass = np.zeros(size)
        self._top_raw = _no_top(size, self._top_count)
        self._top_masked = _no_top(size, self._top_count)

    def run(self) -> SampledRows:
        plan = self._plan
        size = len(plan.rows)
        if self._wants_logprobs and size:
            scratch = self._workspace.rows("scratch", *self._raw.shape)
            self._total = log_sum_exp(self._raw, self._largest, scratch).double().cpu().numpy()
        if self._top_count and size:
            self._top_raw = _top_logprobs(
                top(self._raw, self._maxima, self._top_count), self._total, self._is_finite
            )
        is_few = plan.is_masked & (count_allowed(plan.bitmask) <= FEW)
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
        chosen = self._raw.gather(1, tokens.unsqueeze(1))[:, 0].double().cpu().numpy()
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
        sorted_ids, sorted_values = _sorted(ids, values.astype(np.float64))
        if self._wants_logprobs:
            mass = np.logaddexp.reduce(sorted_values, axis=1) if ids.shape[1] > 1 else sorted_values[:, 0]
            self._log_mass[rows] = mass - self._total[rows]
        if self._top_count:
            self._set_top_masked(rows, sorted_ids, sorted_values, mass)
        if _adjust_few(values, ids, is_real, rows, self._plan):
            sorted_ids, sorted_values = _sorted(ids, values.astype(np.float64))
        settings = DrawSettings.of(self._plan, rows)
        drawn = sorted_ids[:, 0].copy()
        hot = np.flatnonzero(settings.temperature > 0)
        if hot.size:
            drawn[hot] = draw(sorted_values[hot], sorted_ids[hot], settings.take(hot))[0]
        self._token_ids[rows] = drawn

    def _set_top_masked(self, rows: Ints, ids: Ints, values: Doubles, mass: Doubles) -> None:
        """`ids` and `values` [n, any] sorted, `mass` [n] the log of the sum of their exponentials."""
        count = min(self._top_count, ids.shape[1])
        renormalised = (ids[:, :count], values[:, :count])
        found = _top_logprobs(renormalised, mass, self._is_finite[rows])
        self._top_masked[0][rows, :count], self._top_masked[1][rows, :count] = found

    def _sample_whole(self, rows: Ints) -> None:
        """Rows that may draw from much of the vocabulary."""
        plan = self._plan
        logits, maxima = self._raw, self._maxima
        if len(rows) < len(plan.rows):
            index = torch.from_numpy(rows).to(logits.device)
            logits, maxima = logits.index_select(0, index), maxima.index_select(0, index)
        is_masked = plan.is_masked[rows]
        adjustments = [_rows_of(plan.repetition, rows), _rows_of(plan.bias, rows)]
        is_changed = is_masked.any() or any(len(triples[0]) for triples in adjustments)
        if is_masked.any():
            work = self._workspace.rows("work", *logits.shape)
            self._workspace.masks.fill(plan.bitmask[rows], is_masked, work)
            work += logits
            logits, maxima = work, block_max(work)
        elif is_changed:
            work = self._workspace.rows("work", *logits.shape)
            logits = work.copy_(logits)
        self._note_mass(rows, is_masked, logits, maxima)
        if _adjust(logits, adjustments):
            maxima = block_max(logits)
        largest = maxima.amax(1)
        self._has_choice[rows] = (largest > float("-inf")).cpu().numpy()
        self._token_ids[rows] = self._draw_whole(rows, logits, maxima, largest)

    def _note_mass(self, rows: Ints, is_masked: Bools, logits: Tensor, maxima: Tensor) -> None:
        """Log-probabilities under the mask; before the adjustments."""
        if not self._wants_logprobs:
            return
        mass = self._total[rows]
        if is_masked.any():
            scratch = self._workspace.rows("scratch", *logits.shape)
            mass = log_sum_exp(logits, maxima.amax(1), scratch).double().cpu().numpy()
            self._log_mass[rows] = mass - self._total[rows]
        if self._top_count:
            self._set_top_masked(rows, *top(logits, maxima, self._top_count), mass)

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
        """``exp((logit - largest) / T)`` in the scratch buffer."""
        temperature = torch.from_numpy(settings.temperature).to(logits.device).unsqueeze(1)
        weights = self._workspace.rows("scratch", *logits.shape)
        torch.sub(logits, largest.unsqueeze(1), out=weights)
        return weights.div_(temperature).exp_()

    def _draw_free(self, settings: DrawSettings, logits: Tensor, largest: Tensor) -> Ints:
        """Neither top-k nor top-p: from the whole distribution, or what min-p leaves of it."""
        weights = self._weights(settings, logits, largest)
        if (settings.min_p > 0).any():
            floor = torch.from_numpy(settings.min_p).to(logits.device).unsqueeze(1)
            weights.masked_fill_(weights < floor, 0.0)
        return inverse_cdf(weights, settings.uniform)

    def _draw_cut(self, settings: DrawSettings, logits: Tensor, maxima: Tensor) -> Ints:
        """Top-k or top-p: from as many of the likeliest as it takes."""
        total: Doubles | None = None
        if (settings.top_k == 0).any():
            total = self._weights(settings, logits, maxima.amax(1)).sum(1).double().cpu().numpy()
        drawn = np.zeros(len(settings.top_k), dtype=np.int64)
        left = np.arange(len(drawn))
        count = max(FIRST_CANDIDATES, int(settings.top_k.max()))
        while left.size:
            is_all = count >= logits.shape[1]
            left_logits, left_maxima = _take(left, logits, maxima)
            ids, values = top(left_logits, left_maxima, count)
            left_total = None if total is None or is_all else total[left]
            found, is_enough = draw(values, ids, settings.take(left), left_total)
            # A row without a choice has no sum; what is drawn for it is dropped.
            done = is_enough | ~np.isfinite(values[:, 0])
            drawn[left[done]] = found[done]
            left = left[~done]
            count *= CANDIDATE_GROWTH
        return drawn


def _is_finite(largest: Tensor) -> Bools:
    """Rows without NaN (which a maximum propagates) and +inf."""
    finite: Bools = (largest < float("inf")).cpu().numpy()
    return finite


def _take(rows: Ints, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Chosen rows of each tensor; the tensors themselves if that is all rows."""
    if len(rows) == tensors[0].shape[0]:
        return tensors
    index = torch.from_numpy(rows).to(tensors[0].device)
    return tuple(tensor.index_select(0, index) for tensor in tensors)


def _rows_of(triples: Triples, rows: Ints) -> Triples:
    """The triples of some rows, counted within those."""
    place = np.searchsorted(rows, triples[0])
    inside = rows[np.minimum(place, len(rows) - 1)] == triples[0]
    return place[inside], triples[1][inside], triples[2][inside]


def _adjust(logits: Tensor, adjustments: list[Triples]) -> bool:
    """Repetition penalties, then biases, in place; returns whether there were any."""
    device = logits.device
    for index, (rows, ids, values) in enumerate(adjustments):
        if not len(rows):
            continue
        cells = (torch.from_numpy(rows).to(device), torch.from_numpy(ids).to(device))
        change = torch.from_numpy(values).to(device)
        current = logits[cells]
        if index == 0:
            logits[cells] = torch.where(current > 0, current / change, current * change)
        else:
            logits[cells] = current + change
    return any(len(triples[0]) for triples in adjustments)


def _adjust_few(values: Floats, ids: Ints, is_real: Bools, rows: Ints, plan: SamplePlan) -> bool:
    """The same on the allowed tokens of some rows."""
    is_changed = False
    for index, triples in enumerate((plan.repetition, plan.bias)):
        places, tokens, changes = _rows_of(triples, rows)
        for place in np.unique(places):
            mine = places == place
            count = int(is_real[place].sum())
            columns = np.searchsorted(ids[place, :count], tokens[mine])
            hits = columns < count
            hits[hits] = ids[place, columns[hits]] == tokens[mine][hits]
            columns, change = columns[hits], changes[mine][hits]
            current = values[place, columns]
            if index == 0:
                values[place, columns] = np.where(current > 0, current / change, current * change)
            else:
                values[place, columns] = current + change
            is_changed = True
    return is_changed


def _sorted(ids: Ints, values: Doubles) -> tuple[Ints, Doubles]:
    """Likeliest first; ids ascend, so a stable sort keeps ties by lower id."""
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


def _ranks(logits: Tensor, places: Ints, target: Tensor, scratch: Tensor) -> Ints:
    """[n] how many logits of row ``places[i]`` are above ``target[i]``."""
    if len(places) == logits.shape[0] and (places == np.arange(len(places))).all():
        counts: Ints = _count_above(logits, target.unsqueeze(1), scratch)
        return counts
    ranks = np.zeros(len(places), dtype=np.int64)
    for row in np.unique(places):
        members = np.flatnonzero(places == row)
        wanted = target[torch.from_numpy(members).to(target.device)]
        if len(members) >= MANY_TARGETS:
            ascending = logits[row].sort().values
            ranks[members] = logits.shape[1] - torch.searchsorted(ascending, wanted, right=True).cpu().numpy()
            continue
        for member, value in zip(members, wanted, strict=True):
            ranks[member] = _count_above(logits[row : row + 1], value, scratch[row : row + 1])[0]
    return ranks


def _count_above(logits: Tensor, target: Tensor, scratch: Tensor) -> Ints:
    # Summing floats is several times as fast as counting booleans; exact up to 2**24 tokens.
    counts: Ints = torch.gt(logits, target, out=scratch).sum(1).long().cpu().numpy()
    return counts


def _no_top(size: int, count: int) -> tuple[Ints, Floats]:
    return np.full((size, count), -1, dtype=np.int64), np.full((size, count), -np.inf, dtype=np.float32)


def _top_logprobs(found: tuple[Ints, Doubles], total: Doubles, is_finite: Bools) -> tuple[Ints, Floats]:
    """Ids and log-probabilities from logits; id -1 where there is no token."""
    ids, values = found
    logprobs = np.where(values > -np.inf, values - total[:, None], -np.inf)
    is_token = (logprobs > -np.inf) & is_finite[:, None]
    return np.where(is_token, ids, -1), np.where(is_token, logprobs, -np.inf).astype(np.float32)
