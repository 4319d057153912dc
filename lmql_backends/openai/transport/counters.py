"""What jobs cost, for certificates and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Spent:
    """HTTP requests of one job. A group's members share one account."""

    requests: int = 0
    """All of them, repeated ones and hedges included."""
    retries: int = 0
    hedges: int = 0


@dataclass(slots=True)
class Counters:
    """Everything that a transport did so far."""

    jobs: int = 0
    requests: int = 0
    retries: int = 0
    hedges: int = 0
    groups: int = 0
    """Requests that carried more than one prompt."""
    bisections: int = 0
    resumes: int = 0
    """Streams that went on over another connection."""
    cache_hits: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    rejected_prediction_tokens: int = 0

    def add_usage(self, usage: Mapping[str, Any] | None) -> None:
        """Tokens as the endpoint bills them (its ``usage``)."""
        if not usage:
            return
        self.prompt_tokens += _number(usage.get("prompt_tokens"))
        self.completion_tokens += _number(usage.get("completion_tokens"))
        prompt = usage.get("prompt_tokens_details") or {}
        completion = usage.get("completion_tokens_details") or {}
        self.cached_tokens += _number(prompt.get("cached_tokens"))
        self.reasoning_tokens += _number(completion.get("reasoning_tokens"))
        self.rejected_prediction_tokens += _number(completion.get("rejected_prediction_tokens"))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
