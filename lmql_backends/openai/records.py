"""From what an endpoint shows of a token to a sequence's record of it. NaN stands for what is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dcmodel.scheduling.sequence import LogprobRecord, TopRow
from dcmodel.types import TopLogprob
from lmql_backends.openai.endpoint_api import Reply


def free_record(logprob: float, tops: Sequence[TopLogprob] | None) -> LogprobRecord:
    """Of a token that was drawn without a mask: before and after it is the same."""
    row = top_row(tops)
    return logprob, logprob, 0.0, row, row


def masked_record(logprob: float, tops: Sequence[TopLogprob] | None) -> LogprobRecord:
    """Of a token that was drawn under a mask, whose mass the endpoint does not tell."""
    return logprob, math.nan, math.nan, top_row(tops), None


def forced_record(logprob: float = math.nan, tops: Sequence[TopLogprob] | None = None) -> LogprobRecord:
    """Of a token that was the only one that its mask allowed."""
    return logprob, 0.0, logprob, top_row(tops), None


def top_row(tops: Sequence[TopLogprob] | None) -> TopRow | None:
    if not tops:
        return None
    return [item.token_id for item in tops], [item.logprob for item in tops]


def raw_logprobs(reply: Reply) -> tuple[float, ...]:
    """One for each token; NaN where they are not known."""
    if reply.logprobs is None or reply.are_logprobs_raw is False:
        return (math.nan,) * len(reply.token_ids)
    return reply.logprobs


def raw_tops(reply: Reply) -> tuple[tuple[TopLogprob, ...], ...]:
    """One row for each token; empty where they are not known."""
    if reply.tops is None or reply.are_logprobs_raw is False:
        return ((),) * len(reply.token_ids)
    return reply.tops
