"""Whether the endpoint takes a body, and what of it reaches the real route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from lmql_backends.lmtp.server.openai.double.forms import FORM_FIELDS, admit_forms, admit_tools
from lmql_backends.lmtp.server.openai.double.limits import OpenAILimits, Support
from lmql_backends.lmtp.server.openai.double.prompts import admit_messages, admit_prompt
from lmql_backends.lmtp.server.openai.double.refusals import (
    RefusalError,
    missing,
    too_large,
    too_many,
    too_many_entries,
    too_small,
    unknown,
    unsupported,
)
from lmql_backends.lmtp.server.openai.double.wishes import Json, Wish
from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody

COMMON_FIELDS = frozenset(
    (
        *("model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty"),
        *("stop", "stream", "stream_options", "temperature", "top_p", "user"),
    )
)
TEXT_FIELDS = COMMON_FIELDS | {"prompt", "best_of", "suffix"}
CHAT_FIELDS = COMMON_FIELDS | frozenset(
    (
        *("messages", "audio", "function_call", "functions", "max_completion_tokens", "metadata"),
        *("modalities", "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "safety_identifier"),
        *("service_tier", "store", "tool_choice", "tools", "top_logprobs", "verbosity"),
        "web_search_options",
    )
)
"""OpenAI's, but for those that have a knob."""
KNOBS: Mapping[str, Callable[[OpenAILimits], Support]] = {
    "seed": lambda limits: limits.seed,
    "allowed_token_ids": lambda limits: limits.allowed_token_ids,
    "echo": lambda limits: limits.echo,
    "prompt_logprobs": lambda limits: limits.prompt_logprobs,
    "return_token_ids": lambda limits: limits.token_ids,
    "return_tokens_as_token_ids": lambda limits: limits.token_ids,
    "continue_final_message": lambda limits: limits.continuation,
    "add_generation_prompt": lambda limits: limits.continuation,
}


def parse(data: bytes) -> Json:
    """The body without its nulls. Raises `RefusalError`."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RefusalError("We could not parse the JSON body of your request.")
    return {name: value for name, value in body.items() if value is not None}


def admit(body: Json, limits: OpenAILimits, *, is_chat: bool, vocab_size: int) -> Wish:
    """Raises `RefusalError` for what the endpoint does not take."""
    kind = ChatBody if is_chat else CompletionBody
    own = CHAT_FIELDS if is_chat else TEXT_FIELDS
    wish = Wish(is_chat=is_chat, inner={}, is_stream=body.get("stream") is True)
    for name, value in body.items():
        if name in own or name in FORM_FIELDS:
            support: Support = "honoured"  # what forms ask for is judged by itself
        elif name not in kind.__struct_fields__:
            support = limits.unknown_fields if limits.unknown_fields != "honoured" else "ignored"
        else:
            support = KNOBS[name](limits) if name in KNOBS else limits.extra_fields
        if support == "refused":
            raise unknown(name)
        if support == "honoured":
            wish.inner[name] = value
    admit_forms(wish, limits)
    if is_chat:
        admit_messages(wish, limits)
        admit_tools(wish, limits)
    else:
        admit_prompt(wish, limits)
    _admit_sampling(wish, limits, vocab_size)
    _admit_lengths(wish, limits)
    _admit_logprobs(wish, limits)
    wish.wants_ids = wish.inner.get("return_token_ids") is True
    wish.wants_prompt_logprobs = "prompt_logprobs" in wish.inner
    wish.inner["return_token_ids"] = True  # for the double itself
    return wish


def _admit_sampling(wish: Wish, limits: OpenAILimits, vocab_size: int) -> None:
    temperature = _number(wish.inner, "temperature")
    if (
        temperature is not None
        and limits.max_temperature is not None
        and temperature > limits.max_temperature
    ):
        raise too_large("temperature", limits.max_temperature, temperature)
    bias = wish.inner.get("logit_bias")
    if not bias:
        wish.inner.pop("logit_bias", None)
        return
    if limits.max_bias_entries == 0:
        raise unsupported("logit_bias")
    if not isinstance(bias, dict):
        return  # the route says what is wrong with it
    if limits.max_bias_entries is not None and len(bias) > limits.max_bias_entries:
        raise too_many_entries("logit_bias", limits.max_bias_entries, len(bias))
    most = vocab_size - 1 if limits.max_bias_id is None else limits.max_bias_id
    wish.bias = {_bias_key(key, most): _bias_value(value, limits.bias_range) for key, value in bias.items()}


def _bias_key(key: str, most: int) -> int:
    if not (key.isascii() and key.isdigit()):
        raise RefusalError(
            f"Invalid key in 'logit_bias': {key:.40}. You should only be submitting non-negative integers.",
            param="logit_bias",
        )
    if int(key[:20]) > most:
        raise RefusalError(
            f"Invalid key in 'logit_bias': {key:.40}. Maximum value is {most}.", param="logit_bias"
        )
    return int(key)


def _bias_value(value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusalError(
            f"Invalid type for 'logit_bias': expected a number, but got {value!r:.40} instead.",
            param="logit_bias",
            code="invalid_type",
        )
    if value > most:
        raise too_large("logit_bias", most, value)
    if value < -most:
        raise too_small("logit_bias", -most, value)
    return float(value)


def _admit_lengths(wish: Wish, limits: OpenAILimits) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        given = _number(wish.inner, name)
        if given is not None and limits.max_tokens is not None and given > limits.max_tokens:
            raise RefusalError(
                f"{name} is too large: {given:g}. This model supports at most {limits.max_tokens} completion "
                f"tokens, whereas you provided {given:g}.",
                param=name,
                code="invalid_value",
            )
    stops = wish.inner.get("stop")
    if isinstance(stops, list) and limits.max_stops is not None and len(stops) > limits.max_stops:
        raise too_many("stop", limits.max_stops, len(stops))
    for name in ("n", "best_of"):
        count = _number(wish.inner, name)
        if count is not None and limits.max_texts is not None and count > limits.max_texts:
            raise too_large(name, limits.max_texts, count)
    wish.texts = int(_number(wish.inner, "n") or 1)


def _admit_logprobs(wish: Wish, limits: OpenAILimits) -> None:
    name = "top_logprobs" if wish.is_chat else "logprobs"
    for field in ("logprobs", "top_logprobs"):
        asked = wish.inner.get(field)
        if asked is not None and asked is not False and limits.logprobs == "none":
            raise unsupported(field)
    tops = _number(wish.inner, name)
    most = limits.max_top_logprobs if wish.is_chat else limits.max_text_logprobs
    if tops is not None and most is not None and tops > most:
        raise too_large(name, most, tops)
    if wish.is_chat:
        if wish.inner.get("logprobs") is True:
            wish.tops = int(tops or 0)
            wish.inner["top_logprobs"] = max(wish.tops, limits.shown_ranks or 0)
        elif tops is not None:
            raise missing("logprobs")
    elif tops is not None:
        wish.tops = int(tops)
        if wish.inner.get("echo") is True and not limits.echo_logprobs:
            raise RefusalError(
                "Setting 'echo' and 'logprobs' at the same time is not supported for this model.",
                param="logprobs",
            )
    if limits.logprobs == "processed":
        wish.inner["logprobs_mode"] = "masked"
        _check_computable(wish)


def _check_computable(wish: Wish) -> None:
    """Raise `RefusalError` for what the double itself cannot compute: bias and grammar at once."""
    is_formed = any(name in wish.inner for name in FORM_FIELDS)
    if wish.bias and wish.tops is not None and is_formed:
        raise RefusalError(
            "This double does not show log-probabilities after both a bias and a form of the text.",
            param="logprobs",
            code="unsupported_parameter",
        )


def _number(body: Json, name: str) -> float | None:
    """The route says what is wrong with what is none."""
    value = body.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
