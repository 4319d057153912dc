"""The rows of logits of a forward, in torch: masks, draws, log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Floats, Ints, SampledRows, SamplePlan, ScoredRows
from lmql_backends.transformers.greedy import is_plain_greedy, sample_greedy
from lmql_backends.transformers.row_ops import padded_width
from lmql_backends.transformers.sampling import Sampling
from lmql_backends.transformers.scoring import score_rows
from lmql_backends.transformers.workspace import Workspace

__all__ = ["TorchLogitRows", "Workspace"]


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
            logits = self._padded(plan.rows)
            if logits.device.type == "cpu" and is_plain_greedy(plan):
                return sample_greedy(logits, plan)
            return Sampling(logits, plan, self._workspace, self._logits.shape[1]).run()

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        with torch.inference_mode(), np.errstate(all="ignore"):
            return score_rows(
                self._padded, rows, targets, min(top_logprobs, self._logits.shape[1]), self._workspace
            )

    def log_softmax(self, rows: Ints) -> Floats:
        with torch.inference_mode():
            logits = self._logits.index_select(0, torch.from_numpy(rows).to(self._logits.device))
            # One pass over memory that is ours already; NaN and +inf turn all of their row into NaN.
            logits = logits.float()
            logprobs: Floats = torch.log_softmax(logits, dim=1, out=logits).cpu().numpy()
        return logprobs

    def _padded(self, rows: Ints) -> Tensor:
        """Chosen rows as float32 with -inf past the vocabulary, to be read only: in the workspace, or the
        logits themselves where nothing has to change."""
        logits = self._logits
        count, vocab_size = logits.shape
        width = padded_width(vocab_size)
        is_all = len(rows) == count and (rows == np.arange(count)).all()
        if is_all and width == vocab_size and logits.dtype == torch.float32 and logits.is_contiguous():
            return logits
        padded = self._workspace.rows("raw", len(rows), width)
        padded[:, vocab_size:] = float("-inf")
        if not is_all:
            logits = logits.index_select(0, torch.from_numpy(rows).to(logits.device))
        padded[:, :vocab_size].copy_(logits)
        return padded
