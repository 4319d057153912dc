"""From an `Ask` to the body of its request. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dcmodel.errors import CapabilityError
from lmql_backends.openai.capabilities import EndpointCapabilities, GrammarKind, GrammarSupport, SamplingField
from lmql_backends.openai.custom_tools import is_tool, tool_fields
from lmql_backends.openai.endpoint_api import Ask, Conversation, ServerGrammar
from lmql_backends.openai.transport.continuation import ChatStyle

LARGEST_SEED = (1 << 63) - 1
"""Endpoints count seeds as signed numbers of 64 bits; ours are unsigned."""
DEFAULT_FIELDS: Mapping[GrammarKind, str] = {
    GrammarKind.JSON_SCHEMA: "response_format",
    GrammarKind.REGEX: "structured_outputs.regex",
    GrammarKind.CHOICE: "structured_outputs.choice",
    GrammarKind.LARK: "structured_outputs.grammar",
    GrammarKind.EBNF: "structured_outputs.grammar",
    GrammarKind.CONSTRAINT: "constraint",
}


def body_of(model: str, ask: Ask, able: EndpointCapabilities) -> dict[str, Any]:
    """What is sent for `ask`. Raises `CapabilityError` for what the endpoint does not take."""
    check(ask, able)
    body: dict[str, Any] = {"model": model}
    if isinstance(ask.prompt, Conversation):
        body |= _messages(ask.prompt, able)
    else:
        body["prompt"] = list(ask.prompt) if isinstance(ask.prompt, tuple) else ask.prompt
    body[able.limit_field if able.is_chat else "max_tokens"] = ask.max_tokens
    if able.temperature:
        body["temperature"] = ask.temperature
    given: tuple[tuple[str, Any, Any], ...] = (
        ("top_p", ask.top_p, 1.0),
        ("frequency_penalty", ask.frequency_penalty, 0.0),
        ("presence_penalty", ask.presence_penalty, 0.0),
        ("top_k", ask.top_k, 0),
        ("min_p", ask.min_p, 0.0),
        ("repetition_penalty", ask.repetition_penalty, 1.0),
        ("ignore_eos", ask.ignore_eos, False),
        ("stop", list(ask.stop), []),
        ("seed", None if ask.seed is None or not able.seed else ask.seed & LARGEST_SEED, None),
        ("logit_bias", {str(item): bias for item, bias in ask.bias.items()}, {}),
        ("allowed_token_ids", None if ask.allowed is None else list(ask.allowed), None),
        ("return_token_ids", able.returns_token_ids, False),
        ("return_tokens_as_token_ids", able.tokens_as_ids, False),
    )
    body |= {name: value for name, value, default in given if value != default}
    if able.shows_logprobs:
        body |= _logprobs(ask.top_logprobs, able)
    if ask.grammar is not None:
        known = able.grammars.get(ask.grammar.kind)
        body |= grammar_fields(ask.grammar, known)
    return body


def check(ask: Ask, able: EndpointCapabilities) -> None:
    """Raise `CapabilityError` for what would be refused, or silently be without effect."""
    refusals: tuple[tuple[bool, Callable[[], str]], ...] = (
        (
            len(ask.bias) > able.max_bias_entries,
            lambda: f"{len(ask.bias)} logit biases; the endpoint takes {able.max_bias_entries}",
        ),
        (
            any(abs(bias) > able.bias_range for bias in ask.bias.values()),
            lambda: f"a logit bias beyond {able.bias_range:g}",
        ),
        (ask.allowed is not None and not able.allowed_token_ids, lambda: "allowed_token_ids"),
        (
            ask.top_logprobs > able.max_top_logprobs,
            lambda: f"{ask.top_logprobs} top log-probabilities; the endpoint shows {able.max_top_logprobs}",
        ),
        (len(ask.stop) > able.max_stops, lambda: f"{len(ask.stop)} stop strings"),
        (
            not able.temperature and ask.temperature != 1.0,
            lambda: f"temperature {ask.temperature:g}; the endpoint takes only 1",
        ),
        (
            isinstance(ask.prompt, tuple) and not able.token_id_prompts,
            lambda: "a prompt of token ids",
        ),
        (
            isinstance(ask.prompt, Conversation) and bool(ask.prompt.answer) and not able.continuation,
            lambda: "an answer that is to be continued",
        ),
    )
    for is_refused, what in (*refusals, *_sampling_refusals(ask, able)):
        if is_refused:
            raise CapabilityError(
                f"the endpoint cannot do what was asked: {what()}.",
                remedy="`dcmodel backends --probe` shows what it can do.",
            )


def _sampling_refusals(ask: Ask, able: EndpointCapabilities) -> tuple[tuple[bool, Callable[[], str]], ...]:
    asked = (
        (SamplingField.TOP_K, ask.top_k != 0),
        (SamplingField.MIN_P, ask.min_p != 0.0),
        (SamplingField.REPETITION_PENALTY, ask.repetition_penalty != 1.0),
        (SamplingField.IGNORE_EOS, ask.ignore_eos),
    )
    return tuple((is_asked and field not in able.sampling_fields, field.__str__) for field, is_asked in asked)


def grammar_fields(grammar: ServerGrammar, known: GrammarSupport | None) -> dict[str, Any]:
    """The fields that carry a grammar; `known` says in which one the endpoint takes it."""
    field = (known.field if known is not None else "") or DEFAULT_FIELDS[grammar.kind]
    source = list(grammar.source) if grammar.kind is GrammarKind.CHOICE else grammar.source
    if field == "response_format":
        schema = {"name": "answer", "schema": source, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    outer, _, inner = field.partition(".")
    if is_tool(known):
        return tool_fields(inner, str(source))
    return {outer: {inner: source} if inner else source}


def _messages(prompt: Conversation, able: EndpointCapabilities) -> dict[str, Any]:
    messages = [dict(message) for message in prompt.messages]
    if not prompt.answer:
        return {"messages": messages}
    last: dict[str, Any] = {"role": "assistant", "content": prompt.answer}
    if able.continuation_style == ChatStyle.PREFIX:
        last["prefix"] = True
    body: dict[str, Any] = {"messages": [*messages, last]}
    if able.continuation_style == ChatStyle.FINAL_MESSAGE:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _logprobs(count: int, able: EndpointCapabilities) -> dict[str, Any]:
    if not able.is_chat:
        return {"logprobs": count}
    return {"logprobs": True, "top_logprobs": count} if count else {"logprobs": True}
