"""How a completion that was cut goes on: the body of the request for the rest. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

TORN_CHARACTER = "\ufffd"


@dataclass(slots=True)
class Received:
    """What there is of a completion so far."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    has_all_ids: bool = True
    """Whether `token_ids` are all tokens of the text: the endpoint tells them."""
    tokens: int = 0
    """How many tokens it is; where the endpoint does not tell, the number of its pieces (at most as many)."""
    has_more: bool = False
    """There was something beside text, which no request can go on from."""

    def add(self, text: str, token_ids: Sequence[int] | None, tokens: int) -> None:
        if token_ids is None:
            self.has_all_ids = self.has_all_ids and not text
        else:
            self.token_ids.extend(token_ids)
        self.text += text
        self.tokens += tokens


class Continuation(ABC):
    """A way to ask for the rest."""

    @abstractmethod
    def rest(self, body: Mapping[str, Any], received: Received) -> dict[str, Any] | None:
        """The body of a request for what follows `received`; None: there is no such request."""


@dataclass(frozen=True, slots=True)
class CompletionContinuation(Continuation):
    """``/completions``: the received part becomes part of the prompt.

    Token ids where the prompt is given in ids and the endpoint tells its own; else text, which may be cut
    into other tokens than the received ones.
    """

    encode: Callable[[str], Sequence[int]] | None = None
    """The model's tokenizer, for a prompt of ids at an endpoint that tells only text."""

    def rest(self, body: Mapping[str, Any], received: Received) -> dict[str, Any] | None:
        prompt = body["prompt"]
        if isinstance(prompt, str):
            if received.text.endswith(TORN_CHARACTER):
                return None
            return _shortened({**body, "prompt": prompt + received.text}, received)
        if received.has_all_ids:
            return _shortened({**body, "prompt": [*prompt, *received.token_ids]}, received)
        if self.encode is None or received.text.endswith(TORN_CHARACTER):
            return None
        return _shortened({**body, "prompt": [*prompt, *self.encode(received.text)]}, received)


class ChatStyle(StrEnum):
    """How an endpoint takes the beginning of an answer."""

    FINAL_MESSAGE = "continue_final_message"
    """vLLM, SGLang."""
    PREFIX = "prefix"
    """Mistral, DeepSeek: the last message is marked."""
    PREFILL = "prefill"
    """llama.cpp: the last message is the assistant's."""


@dataclass(frozen=True, slots=True)
class ChatContinuation(Continuation):
    """``/chat/completions`` where the endpoint takes the beginning of an answer."""

    style: ChatStyle

    def rest(self, body: Mapping[str, Any], received: Received) -> dict[str, Any] | None:
        if received.text.endswith(TORN_CHARACTER):
            return None
        messages = list(body["messages"])
        text = received.text
        if messages and messages[-1].get("role") == "assistant":
            text = f"{messages.pop()['content']}{text}"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        changed: dict[str, Any] = {}
        if self.style is ChatStyle.PREFIX:
            message["prefix"] = True
        elif self.style is ChatStyle.FINAL_MESSAGE:
            changed = {"continue_final_message": True, "add_generation_prompt": False}
        return _shortened({**body, **changed, "messages": [*messages, message]}, received)


class NoContinuation(Continuation):
    """The endpoint only answers from the beginning."""

    def rest(self, body: Mapping[str, Any], received: Received) -> dict[str, Any] | None:
        return None


def _shortened(body: dict[str, Any], received: Received) -> dict[str, Any]:
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None:
            body[name] = max(body[name] - received.tokens, 1)
    return body


def token_limit(body: Mapping[str, Any]) -> int | None:
    """How many tokens a body asks for."""
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    return int(limit) if limit is not None else None


def is_deterministic(body: Mapping[str, Any]) -> bool:
    """Whether asking twice should give the same answer."""
    return body.get("temperature") == 0 or body.get("seed") is not None
