"""Whether a span can be computed behind what its sequence holds."""

from __future__ import annotations

from dcmodel.engine import Branches, Capabilities, Span
from dcmodel.errors import EngineError


def check_span(span: Span, length: int, room: int, limits: Capabilities) -> None:
    """Raise `EngineError` unless `span` continues a sequence of `length` tokens with `room`."""
    end = span.start + len(span.token_ids)
    if span.start != length or end > room:
        raise EngineError(
            f"a span of {len(span.token_ids)} tokens at {span.start} does not continue a sequence of "
            f"{length} tokens with room for {room}."
        )
    if span.branches is None:
        return
    count = len(span.branches.token_ids)
    if count > limits.max_branch_tokens:
        raise EngineError(f"branches of {count} tokens are more than {limits.max_branch_tokens}.")
    depth = _depth(span.branches)
    if end + depth > limits.max_positions:
        raise EngineError(
            f"branches of depth {depth} behind {end} tokens go past the {limits.max_positions} positions."
        )


def _depth(branches: Branches) -> int:
    if len(branches.parents) != len(branches.token_ids):
        raise EngineError(f"{len(branches.token_ids)} tokens have {len(branches.parents)} parents.")
    depths: list[int] = []
    for place, parent in enumerate(branches.parents):
        if not -1 <= parent < place:
            raise EngineError(f"the parent of token {place} is {parent}, which does not come before it.")
        depths.append(depths[parent] + 1 if parent >= 0 else 1)
    return max(depths, default=0)
