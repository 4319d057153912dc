"""Results as the dictionaries that ``--json`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dcmodel.llm.results import RollingScore, Scored
from dcmodel.types import Completion, TokenLogprobs


def completion_to_dict(completion: Completion, *, with_parsed: bool = False) -> dict[str, Any]:
    """`parsed` is shown only where it is a JSON value (after a JSON schema)."""
    encoded: dict[str, Any] = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": str(completion.finish_reason),
        "stop_reason": completion.stop_reason,
        "logprobs": logprobs_to_list(completion.token_ids, completion.logprobs),
        "forced": list(completion.forced),
        "usage": dataclasses.asdict(completion.usage),
        "certificate": dataclasses.asdict(completion.certificate),
    }
    for name in ("score", "weight", "log_z"):
        if getattr(completion, name) is not None:
            encoded[name] = getattr(completion, name)
    if completion.alternatives:
        encoded["alternatives"] = [
            completion_to_dict(item, with_parsed=with_parsed) for item in completion.alternatives
        ]
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
    return [
        dataclasses.asdict(item) | {"mean_logprob": item.mean_logprob, "byte_logprob": item.byte_logprob}
        for item in results
    ]


def rolling_to_dict(score: RollingScore) -> dict[str, Any]:
    """A whole text's score, without the text."""
    return {
        "logprob": score.logprob,
        "byte_logprob": score.byte_logprob,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
        "word_perplexity": score.word_perplexity,
        "token_ids": list(score.token_ids),
        "logprobs": list(score.logprobs),
    }
