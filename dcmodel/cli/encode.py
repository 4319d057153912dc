"""Results as the dictionaries that ``--json`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dcmodel.llm.results import Scored
from dcmodel.types import Completion, TokenLogprobs


def completion_to_dict(completion: Completion, *, with_parsed: bool = False) -> dict[str, Any]:
    """`parsed` is shown only where it is a JSON value (after a JSON schema)."""
    encoded = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": str(completion.finish_reason),
        "stop_reason": completion.stop_reason,
        "logprobs": logprobs_to_list(completion.token_ids, completion.logprobs),
        "forced": list(completion.forced),
        "usage": dataclasses.asdict(completion.usage),
        "certificate": dataclasses.asdict(completion.certificate),
    }
    return encoded | {"parsed": completion.parsed} if with_parsed else encoded


def logprobs_to_list(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None
) -> list[dict[str, Any]] | None:
    """One dictionary per token."""
    if logprobs is None:
        return None
    return [
        {"token_id": token_id, **dataclasses.asdict(item)}
        for token_id, item in zip(token_ids, logprobs, strict=True)
    ]


def scored_to_list(results: Sequence[Scored]) -> list[dict[str, Any]]:
    """One dictionary per text, in order."""
    return [dataclasses.asdict(item) for item in results]
