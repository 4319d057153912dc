"""What a client asked for, as far as the answer has to be shaped by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

COMPLETIONS = "/v1/completions"
CHATS = "/v1/chat/completions"
DECISIONS = "/v1/decisions"


@dataclass(slots=True, kw_only=True)
class Wish:
    """Of one request. `inner` is the body for the real route, which the parts of the double write."""

    is_chat: bool
    inner: Json
    is_stream: bool = False
    tops: int | None = None
    """How many likeliest tokens are shown at each place; None: no log-probabilities are."""
    wants_ids: bool = False
    wants_prompt_logprobs: bool = False
    bias: Mapping[int, float] = field(default_factory=dict)
    texts: int = 1
    """Of each prompt."""
    tool: str = ""
    """The custom tool that is called with the answer."""
