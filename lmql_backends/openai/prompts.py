"""From token ids to the form of a prompt that an endpoint takes. No I/O."""

from __future__ import annotations

import json
from typing import Any

from dcmodel.errors import InvalidRequestError
from dctokenizers import Tokenizer, TokenizerError
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.endpoint_api import Conversation, Prompt, SentPrompt

MARK = "\ufdd0messages:"
"""Begins a text that stands for a conversation: JSON follows, in a line of its own."""
CHAT_TEMPLATE = (
    f"{MARK}{{{{ messages | tojson }}}}\n"
    "{% if tools %}{{ raise_exception('tools are not sent to the endpoint') }}{% endif %}"
)
"""Writes a conversation as a text that `conversation_of` reads back."""


def conversation_of(text: str, answer: str = "") -> Conversation:
    """The conversation that the template wrote, and what stands behind it as the beginning of the answer.
    Any other text is what the user says.

    Raises `InvalidRequestError` where the template's text was changed.
    """
    if not text.startswith(MARK):
        return Conversation(({"role": "user", "content": text},), answer)
    written = text.removeprefix(MARK)
    try:
        messages, end = json.JSONDecoder().raw_decode(written)
        begun = written[end:].removeprefix("\n")
    except ValueError:
        messages, begun = _unfinished(written)
    return Conversation(tuple(messages), begun + answer)


def _unfinished(written: str) -> tuple[list[dict[str, Any]], str]:
    """The messages, and the text of the last one, which is to go on (`continue_final_message`)."""
    try:
        *messages, last = json.loads(f'{written}"}}]')
        content = last["content"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(
            "the conversation cannot be read back from the prompt.",
            remedy="Use what `chat_prompt` gives as it is; in messages, let `content` follow `role`.",
        ) from error
    return messages, str(content)


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
    is_exact = not conversation.answer or (
        capabilities.exact_continuation and tokenizer.encode(conversation.answer) == list(output_ids)
    )
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
