"""Prompts: their kinds, echoes, and conversations whose last answer was begun."""

from __future__ import annotations

from lmql_backends.lmtp.server.openai.double.limits import OpenAILimits
from lmql_backends.lmtp.server.openai.double.refusals import RefusalError, unsupported
from lmql_backends.lmtp.server.openai.double.wishes import Wish


def admit_prompt(wish: Wish, limits: OpenAILimits) -> None:
    """Of completions. Raises `RefusalError` for a kind of prompt that the endpoint does not take."""
    prompt = wish.inner.get("prompt")
    if isinstance(prompt, list) and prompt:
        is_list = not isinstance(prompt[0], int)
        has_ids = not is_list or any(isinstance(item, list) for item in prompt)
        if is_list and not limits.list_prompts:
            raise _type_error("a string", "an array of prompts")
        if has_ids and not limits.token_id_prompts:
            raise _type_error("a string", "an array of integers")
    if wish.inner.get("max_tokens") == 0 and not limits.echo_alone:
        raise RefusalError(
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
            param="max_tokens",
            code="integer_below_min_value",
        )


def admit_messages(wish: Wish, limits: OpenAILimits) -> None:
    """Of chats. Raises `RefusalError` where an answer was begun and the endpoint continues none."""
    messages = wish.inner.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return
    if messages[-1].get("role") != "assistant":
        return
    if limits.always_continues:
        wish.inner.update(continue_final_message=True, add_generation_prompt=False)
    elif limits.continuation == "refused":
        raise unsupported("messages")


def _type_error(expected: str, given: str) -> RefusalError:
    return RefusalError(
        f"Invalid type for 'prompt': expected {expected}, but got {given} instead.",
        param="prompt",
        code="invalid_type",
    )
