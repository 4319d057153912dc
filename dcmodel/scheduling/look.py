"""A look at the distribution of a sequence's next token, which is not drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcmodel.logits import Floats
from dcmodel.mask import row_to_bools
from dcmodel.types import NextTokens


@dataclass(slots=True)
class Look:
    """What is asked, and then what was seen."""

    k: int | None
    """How many of the likeliest allowed tokens; None: the whole vocabulary."""
    found: NextTokens | None = None

    @property
    def is_done(self) -> bool:
        return self.found is not None


def likeliest(token_ids: list[int], masked_logprobs: list[float], log_mass: float) -> NextTokens:
    """From the likeliest allowed tokens of a row; an id of -1 stands for none."""
    ids = np.array(token_ids, dtype=np.int64)
    masked = np.array(masked_logprobs, dtype=np.float32)[ids >= 0]
    return NextTokens(
        token_ids=ids[ids >= 0],
        raw_logprobs=masked + np.float32(log_mass),
        masked_logprobs=masked,
        log_mass=log_mass,
    )


def whole_vocabulary(logprobs: Floats, bits: NDArray[np.int32] | None) -> NextTokens:
    """From a row of raw log-probabilities ``[vocab_size]`` and, perhaps, a packed mask."""
    masked, log_mass = logprobs, 0.0
    if bits is not None:
        allowed = np.zeros(len(logprobs), dtype=np.bool_)
        known = min(len(logprobs), 32 * len(bits))
        allowed[:known] = row_to_bools(bits, known)
        kept = logprobs[allowed].astype(np.float64)
        top = kept.max(initial=-np.inf)
        log_mass = float(np.log(np.exp(kept - top).sum()) + top) if top > -np.inf else -np.inf
        log_mass = min(log_mass, 0.0)
        masked = np.where(allowed, logprobs - np.float32(log_mass), np.float32(-np.inf))
    return NextTokens(
        token_ids=np.arange(len(logprobs), dtype=np.int64),
        raw_logprobs=logprobs,
        masked_logprobs=masked.astype(np.float32, copy=False),
        log_mass=log_mass,
    )
