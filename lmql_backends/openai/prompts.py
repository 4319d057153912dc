"""From token ids to the form of a prompt that an endpoint takes. No I/O."""

from __future__ import annotations

import json

from dctokenizers import Tokenizer, TokenizerError
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.endpoint_api import Conversation, Prompt, SentPrompt

MARK = "\ufdd0messages:"
"""Begins a text that stands for a conversation: JSON follows, in a line of its own."""
CHAT_TEMPLATE = (
    f"{MARK}{{{{ messages | tojson(ensure_ascii=true) }}}}\n"
    "{% if tools %}{{ raise_exception('tools are not sent to the endpoint') }}{% endif %}"
)
"""Writes a conversation as a text that `conversation_of` reads back."""


def conversation_of(text: str, answer: str = "") -> Conversation:
    """The conversation that the template wrote, and what stands behind it as the beginning of the answer.
    Any other text is what the user says."""
    if text.startswith(MARK):
        line, _, begun = text.removeprefix(MARK).partition("\n")
        try:
            messages = json.loads(line)
        except ValueError:
            messages = None
        if isinstance(messages, list) and all(isinstance(item, dict) for item in messages):
            return Conversation(tuple(messages), begun + answer)
    return Conversation(({"role": "user", "content": text},), answer)


def place(
    tokenizer: Tokenizer,
    capabilities: EndpointCapabilities,
    prompt_ids: tuple[int, ...],
    output_ids: tuple[int, ...],
) -> SentPrompt | None:
    """See `Asker.place`."""
    if capabilities.is_chat:
        return _place_chat(tokenizer, capabilities, prompt_ids, output_ids)
    ids = prompt_ids + output_ids
    if capabilities.token_id_prompts:
        return SentPrompt(ids, is_exact=True)
    text = text_of(tokenizer, ids)
    if text is None:
        return None
    return SentPrompt(text, is_exact=_encoded(tokenizer, text) == list(ids))


def text_of(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str | None:
    """The text that the endpoint's tokenizer makes these ids of; None where they end inside a character."""
    start = tokenizer.prompt_token_ids
    if start and ids[: len(start)] == start:
        ids = ids[len(start) :]
    try:
        return tokenizer.decode_bytes(ids, skip_special=False).decode()
    except UnicodeDecodeError:
        return None


def _place_chat(
    tokenizer: Tokenizer,
    capabilities: EndpointCapabilities,
    prompt_ids: tuple[int, ...],
    output_ids: tuple[int, ...],
) -> SentPrompt | None:
    text, answer = text_of(tokenizer, prompt_ids), text_of(tokenizer, output_ids)
    if text is None or answer is None:
        return None
    conversation = conversation_of(text, answer)
    if conversation.answer and not capabilities.continuation:
        return None
    is_exact = not conversation.answer or tokenizer.encode(conversation.answer) == list(output_ids)
    return SentPrompt(conversation, is_exact=is_exact)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode_prompt(text)
    except TokenizerError:
        return []


def prompt_length(prompt: Prompt) -> int:
    """About how many tokens it is, where the endpoint does not tell."""
    if isinstance(prompt, tuple):
        return len(prompt)
    if isinstance(prompt, str):
        return len(prompt) // 4 + 1
    return sum(len(str(item.get("content", ""))) // 4 + 4 for item in prompt.messages)
