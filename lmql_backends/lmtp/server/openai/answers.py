"""What clients get: OpenAI's answers, and a few fields more (docs/openai-server.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Self

import msgspec

from dcmodel.errors import RequestCancelledError
from dcmodel.types import Certificate, Completion, FinishReason
from lmql_backends.lmtp.server.openai.logprobs import ChatLogprobs, LegacyLogprobs, PromptPlaces


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class CompletionDetails(msgspec.Struct):
    forced_tokens: int = 0
    """Of which the constraint left no choice: the model was not asked."""


class UsageBody(msgspec.Struct, kw_only=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails

    @classmethod
    def of(cls, groups: Iterable[tuple[int, Sequence[Completion]]]) -> Self:
        """Of prompts (their lengths) with all texts that were drawn for each; a prompt counts once."""
        prompt = cached = drawn = forced = 0
        for length, texts in groups:
            prompt += texts[0].usage.prompt_tokens if texts else length
            cached += texts[0].usage.cached_tokens if texts else 0
            drawn += sum(item.usage.completion_tokens for item in texts)
            forced += sum(item.usage.forced_tokens for item in texts)
        return cls(
            prompt_tokens=prompt,
            completion_tokens=drawn,
            total_tokens=prompt + drawn,
            prompt_tokens_details=PromptDetails(cached),
            completion_tokens_details=CompletionDetails(forced),
        )


def usage_of_stream(draws: Iterable[int], ended: Sequence[Completion]) -> UsageBody:
    """Of texts in the order of their prompts; `draws`: how many there are of each prompt."""
    rest = iter(ended)
    return UsageBody.of((0, list(islice(rest, count))) for count in draws)


class ChoiceEnd(msgspec.Struct, kw_only=True):
    """How a text ended, and what is known of it."""

    finish_reason: str
    stop_reason: str | None = None
    """The stop string that ended it, if one did."""
    ended_by: str = ""
    """``eos``, ``constraint``, ``max_tokens``, ``context`` or ``stop``."""
    certificate: Certificate | None = None


class TextChoice(ChoiceEnd, kw_only=True):
    index: int
    text: str
    logprobs: LegacyLogprobs | None = None
    prompt_logprobs: PromptPlaces | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: Sequence[int] | msgspec.UnsetType = msgspec.UNSET
    token_ids: Sequence[int] | msgspec.UnsetType = msgspec.UNSET


class AnswerMessage(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str
    refusal: None = None


class ChatChoice(ChoiceEnd, kw_only=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    token_ids: Sequence[int] | msgspec.UnsetType = msgspec.UNSET


class Head(msgspec.Struct, kw_only=True):
    """What every answer and every chunk of one request begins with."""

    id: str
    object: str
    created: int
    model: str


class TextAnswer(Head, kw_only=True):
    choices: list[TextChoice]
    usage: UsageBody


class ChatAnswer(Head, kw_only=True):
    choices: list[ChatChoice]
    usage: UsageBody
    prompt_logprobs: PromptPlaces | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: Sequence[int] | msgspec.UnsetType = msgspec.UNSET


def end_of(completion: Completion) -> dict[str, Any]:
    """The fields of `ChoiceEnd`. Raises `RequestCancelledError`: a cancelled text is no answer."""
    if completion.finish_reason is FinishReason.CANCELLED:
        raise RequestCancelledError("the request was cancelled before it was complete.", remedy="Try again.")
    ended_by, _, stop = completion.stop_reason.partition(":")
    return {
        "finish_reason": str(completion.finish_reason),
        "stop_reason": stop if ended_by == "stop" else None,
        "ended_by": ended_by,
        "certificate": completion.certificate,
    }


def ended_at_once() -> dict[str, Any]:
    """The fields of `ChoiceEnd` of a text of which no token was wanted."""
    return {"finish_reason": str(FinishReason.LENGTH), "ended_by": "max_tokens"}
