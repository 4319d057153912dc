"""The rows of logits of one vLLM step: those that it computed, and those that scores need besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Bools, Floats, Ints, SampledRows, SamplePlan, ScoredRows
from lmql_backends.torch_rows.rows import TorchLogitRows, Workspace

ComputeLogits = Callable[[Tensor], Tensor]
"""From hidden states ``[n, width]`` to logits ``[n, vocab_size]``."""
SLICE_BYTES = 128 << 20
FLOAT_BYTES = 4


class StepRows:
    """`LogitRows` over a step's logits (one row of each request, behind its last token) and hidden states.

    vLLM computes no logits of the tokens before the last; they are made here, in slices, when they are
    looked up.
    """

    def __init__(
        self,
        logits: Tensor,
        *,
        request_rows: Ints,
        token_rows: Ints,
        hidden: Tensor | None,
        compute_logits: ComputeLogits,
        workspace: Workspace,
    ) -> None:
        """`request_rows`: of each row, that of `logits`, or -1; `token_rows`: the one of `hidden`."""
        self._logits = TorchLogitRows(logits, workspace)
        self._vocab_size = logits.shape[1]
        self._request_rows = request_rows
        self._token_rows = token_rows
        self._hidden = hidden
        self._compute_logits = compute_logits
        self._workspace = workspace

    def sample(self, plan: SamplePlan) -> SampledRows:
        return self._logits.sample(replace(plan, rows=self._request_rows[plan.rows]))

    def log_softmax(self, rows: Ints) -> Floats:
        return self._logits.log_softmax(self._request_rows[rows])

    def to_numpy(self) -> Floats:
        everything = np.arange(len(self._request_rows))
        parts = [part.to_numpy()[local] for _, part, local in self._parts(everything)]
        places = np.concatenate([places for places, _, _ in self._parts(everything)])
        rows: Floats = np.concatenate(parts)[np.argsort(places)]
        return rows

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        count = min(top_logprobs, self._vocab_size)
        logprob: Floats = np.zeros(len(rows), dtype=np.float32)
        rank: Ints = np.zeros(len(rows), dtype=np.int64)
        is_finite: Bools = np.zeros(len(rows), dtype=np.bool_)
        top_ids: Ints = np.zeros((len(rows), count), dtype=np.int64)
        top: Floats = np.zeros((len(rows), count), dtype=np.float32)
        for places, part, local in self._parts(rows):
            found = part.score(local, targets[places], top_logprobs)
            logprob[places], rank[places], is_finite[places] = found.logprob, found.rank, found.is_finite
            if count:
                top_ids[places], top[places] = found.top
        return ScoredRows(logprob=logprob, rank=rank, is_finite=is_finite, top=(top_ids, top))

    def _parts(self, rows: Ints) -> Iterator[tuple[Ints, TorchLogitRows, Ints]]:
        """Places in `rows`, the logits that hold them, and the rows within these; one part at a time."""
        request_rows = self._request_rows[rows]
        known = np.flatnonzero(request_rows >= 0)
        if len(known):
            yield known, self._logits, request_rows[known]
        others = np.flatnonzero(request_rows < 0)
        size = max(SLICE_BYTES // (FLOAT_BYTES * self._vocab_size), 1)
        for begin in range(0, len(others), size):
            places = others[begin : begin + size]
            assert self._hidden is not None
            index = torch.from_numpy(self._token_rows[rows[places]]).to(self._hidden.device)
            with torch.inference_mode():
                logits = self._compute_logits(self._hidden.index_select(0, index))
            yield places, TorchLogitRows(logits, self._workspace), np.arange(len(places))
