"""The rows of logits of a forward, in torch: masks, draws, log-probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dcmodel.logits import Floats, Ints, SampledRows, SamplePlan, ScoredRows
from lmql_backends.torch_rows.greedy import is_plain_greedy, sample_greedy
from lmql_backends.torch_rows.row_ops import padded_width
from lmql_backends.torch_rows.sampling import Sampling
from lmql_backends.torch_rows.scoring import score_rows
from lmql_backends.torch_rows.workspace import Workspace

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
            logits = self._rows(plan.rows)
            if logits.device.type == "cpu" and is_plain_greedy(plan):
                return sample_greedy(logits, plan)
            return Sampling(logits, plan, self._workspace, self._logits.shape[1]).run()

    def score(self, rows: Ints, targets: Ints, top_logprobs: int) -> ScoredRows:
        with torch.inference_mode(), np.errstate(all="ignore"):
            vocab_size = self._logits.shape[1]
            count = min(top_logprobs, vocab_size)
            return score_rows(self._rows, vocab_size, rows, targets, count, self._workspace)

    def log_softmax(self, rows: Ints) -> Floats:
        with torch.inference_mode():
            logits = self._logits.index_select(0, torch.from_numpy(rows).to(self._logits.device))
            # One pass over memory that is ours already; NaN and +inf turn all of their row into NaN.
            logits = logits.float()
            logprobs: Floats = torch.log_softmax(logits, dim=1, out=logits).cpu().numpy()
        return logprobs

    def _rows(self, rows: Ints, is_padded: bool = True) -> Tensor:
        """Chosen rows as float32, to be read only: in the workspace, or the logits themselves where nothing
        has to change. Padded means that -inf follows the vocabulary up to whole blocks."""
        logits = self._logits
        count, vocab_size = len(rows), logits.shape[1]
        width = padded_width(vocab_size) if is_padded else vocab_size
        is_run = count > 0 and (rows == np.arange(rows[0], rows[0] + count)).all()
        if is_run:
            logits = logits[int(rows[0]) : int(rows[0]) + count]
            if width == vocab_size and logits.dtype == torch.float32 and logits.is_contiguous():
                return logits
        padded = self._workspace.rows("raw", count, width)
        padded[:, vocab_size:] = float("-inf")
        if not is_run:
            logits = logits.index_select(0, torch.from_numpy(rows).to(logits.device))
        padded[:, :vocab_size].copy_(logits)
        return padded
