"""What is known of each row of logits. It is found once, whoever asks."""

from __future__ import annotations

import math

import numpy as np

from dcmodel.logits import Floats, Ints
from dcmodel.sampler.row_ops import relative_weights

_UNKNOWN = -1


class RowFacts:
    """The likeliest token and the log of the sum of the exponentials of each row, found when asked for."""

    def __init__(self, logits: Floats) -> None:
        self._logits = logits
        self._best = np.full(len(logits), _UNKNOWN, dtype=np.int64)
        self._log_sums: dict[int, float] = {}
        self._weights: Floats | None = None
        self._row_of_weights = _UNKNOWN

    def best(self, rows: Ints) -> tuple[Ints, Floats]:
        """The likeliest token of each row, ties by lower id, and its logit: NaN or +inf if there is one."""
        for row in rows[self._best[rows] == _UNKNOWN].tolist():
            # argmax stops at a NaN, so that no other pass has to look for one.
            self._best[row] = self._logits[row].argmax()
        ids = self._best[rows]
        return ids, self._logits[rows, ids]

    def log_sum(self, row: int) -> float:
        """NaN for a row that holds NaN or +inf, -inf where no token is possible."""
        if row not in self._log_sums:
            self.weights(row)
        return self._log_sums[row]

    def weights(self, row: int) -> Floats:
        """[vocab_size] ``exp(logit - largest)`` of a row; to be read, until the next call for any row.
        Whatever, where the row is not finite or has no possible token."""
        if self._weights is None:
            self._weights = np.empty(self._logits.shape[1], dtype=np.float32)
        if self._row_of_weights == row:
            return self._weights
        largest = self._largest(row)
        if math.isfinite(largest):
            weights = relative_weights(self._logits[row], largest, 1.0, self._weights)
            self._row_of_weights = row
            self._log_sums[row] = largest + math.log(weights.sum())
        else:
            self._log_sums[row] = -math.inf if largest == -math.inf else math.nan
        return self._weights

    def _largest(self, row: int) -> float:
        best = int(self._best[row])
        if best == _UNKNOWN:
            best = self._best[row] = int(self._logits[row].argmax())
        return float(self._logits[row, best])
