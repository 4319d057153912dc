"""Responses that are not streamed: checked, and shared out among the prompts of a group. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lmql_backends.openai.transport.counters import Spent
from lmql_backends.openai.transport.failures import AttemptFailed, Kind, from_event
from lmql_backends.openai.transport.http import Reply

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an endpoint answered to one prompt."""

    choices: tuple[dict[str, Any], ...]
    """As the endpoint sent them, one for each of ``n``."""
    usage: dict[str, Any] | None = None
    """Of the whole request, which `group` prompts shared."""
    group: int = 1
    system_fingerprint: str = ""
    spent: Spent = field(default_factory=Spent)
    """Requests of the whole group; none for an answer from the cache."""
    is_cached: bool = False


def parse(reply: Reply) -> dict[str, Any]:
    """The object in a response of status 200. Raises `AttemptFailed` for anything else that may come so."""
    try:
        message = _decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        content_type = reply.headers.get("content-type", "no content type")
        raise AttemptFailed(
            Kind.BAD_RESPONSE, f"{len(reply.body)} bytes of {content_type} that are no JSON ({error})"
        ) from error
    if not isinstance(message, dict):
        raise AttemptFailed(Kind.BAD_RESPONSE, f"JSON of the wrong kind: {type(message).__name__}")
    if message.get("error") is not None and not message.get("choices"):
        raise from_event(message["error"])
    return message


def choices_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The choices, of which there is at least one. Raises `AttemptFailed`."""
    choices = message.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(item, dict) for item in choices):
        raise AttemptFailed(Kind.BAD_RESPONSE, "an answer without choices")
    return choices


def in_order(choices: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The choices of one prompt by their ``index``, as they came where that is no order."""
    places = [choice.get("index") for choice in choices]
    if not all(isinstance(place, int) for place in places):
        return tuple(choices)
    return tuple(sorted(choices, key=lambda choice: int(choice["index"])))


def share_out(
    choices: list[dict[str, Any]], prompts: int, per_prompt: int
) -> list[tuple[dict[str, Any], ...] | None] | None:
    """The choices of each prompt by their ``index``, None for a prompt that got too few; or None at all where
    an index does not tell whose a choice is (out of range, or taken twice by different choices)."""
    if prompts == 1:
        return [tuple(choices)] if len(choices) >= per_prompt else [None]
    places: list[dict[str, Any] | None] = [None] * (prompts * per_prompt)
    for choice in choices:
        index = choice.get("index")
        if not isinstance(index, int) or not 0 <= index < len(places):
            return None
        if places[index] is not None and places[index] != choice:
            return None
        places[index] = choice
    shares: list[tuple[dict[str, Any], ...] | None] = []
    for first in range(0, len(places), per_prompt):
        share = tuple(item for item in places[first : first + per_prompt] if item is not None)
        shares.append(share if len(share) == per_prompt else None)
    return shares
