"""What a sequence takes from its request as it is."""

from __future__ import annotations

from typing import TypedDict

from dcmodel.constraints import StopMatcher


class SequenceBounds(TypedDict):
    """Where a sequence ends, and its seed."""

    seed: int
    limit: int
    limit_reason: str
    eos_token_ids: frozenset[int]
    stop: StopMatcher | None
    top_logprobs: int
