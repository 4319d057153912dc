"""The events of a streamed completion. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from lmql_backends.openai.transport.failures import AttemptFailed, Kind, from_event
from lmql_backends.openai.transport.sse import ServerEvent

DONE = "[DONE]"
PLAIN_PARTS = frozenset({"role", "content"})
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event adds."""

    text: str = ""
    token_ids: tuple[int, ...] | None = None
    """Where the endpoint tells them."""
    tokens: int = 0
    """How many tokens this is; 1 where the endpoint does not tell and there is text."""
    finish_reason: str | None = None
    has_more: bool = False
    """There is something beside text in it: a tool's arguments, reasoning."""
    choice: dict[str, Any] = field(default_factory=dict)
    """As the endpoint sent it: log-probabilities and everything of its own."""
    usage: dict[str, Any] | None = None
    is_end: bool = False
    """The event that says that nothing follows."""


NOTHING = Chunk()
END = Chunk(is_end=True)


def read_event(event: ServerEvent) -> Chunk:
    """What an event says. Raises `AttemptFailed` where it is an error, or no JSON at all."""
    if event.data == DONE:
        return END
    try:
        message = _decode(event.data)
    except msgspec.MsgspecError as error:
        raise AttemptFailed(Kind.BAD_RESPONSE, f"an event that is no JSON: {event.data[:80]!r}") from error
    if not isinstance(message, dict):
        raise AttemptFailed(Kind.BAD_RESPONSE, f"an event that is no object: {event.data[:80]!r}")
    if message.get("error") is not None or event.name == "error":
        raise from_event(message.get("error") or message)
    usage = message.get("usage")
    choices = message.get("choices")
    if not choices:
        return Chunk(usage=usage) if usage else NOTHING
    return _of_choice(choices[0], usage)


def _of_choice(choice: dict[str, Any], usage: dict[str, Any] | None) -> Chunk:
    delta = choice.get("delta")
    text = (delta.get("content") if delta is not None else choice.get("text")) or ""
    token_ids = _ids(choice)
    return Chunk(
        text=text,
        token_ids=token_ids,
        tokens=len(token_ids) if token_ids is not None else _count(choice, text),
        finish_reason=choice.get("finish_reason"),
        has_more=delta is not None and any(delta[name] for name in delta if name not in PLAIN_PARTS),
        choice=choice,
        usage=usage,
    )


def _ids(choice: dict[str, Any]) -> tuple[int, ...] | None:
    for name in ("token_ids", "tokens"):
        ids = choice.get(name)
        if isinstance(ids, list) and all(isinstance(item, int) for item in ids):
            return tuple(ids)
    return None


def _count(choice: dict[str, Any], text: str) -> int:
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict):
        entries = logprobs.get("tokens") or logprobs.get("content")
        if entries:
            return len(entries)
    return 1 if text else 0
