"""What clients may send: every field with its type and range. `reading.py` decodes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dcmodel.types import MAX_TOP_LOGPROBS

MAX_CHOICES = 128
"""Texts of one prompt."""
MAX_STOPS = 64

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
Count = Annotated[int, Meta(ge=0, lt=1 << 31)]
Positive = Annotated[int, Meta(ge=1, lt=1 << 31)]
Tops = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Temperature = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Mass = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Factor = Annotated[float, Meta(gt=0)]
Stops = str | Annotated[list[str], Meta(max_length=MAX_STOPS)]


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is read. A field that is null counts as left out."""

    model: str | None = None


class JsonSchemaFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    schema: dict[str, Any] | bool | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    """Whatever it says, the answer is valid under the schema."""


class ResponseFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's; of several, all must hold."""

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Nothing is added to hide lengths of chunks, which is what false asks for."""


class Generation(Body, kw_only=True):
    """What the two ways to generate have in common."""

    # how tokens are drawn
    temperature: Temperature | None = None
    top_p: Mass | None = None
    top_k: Annotated[int, Meta(ge=-1, lt=1 << 31)] | None = None
    min_p: Share | None = None
    repetition_penalty: Factor | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    allowed_token_ids: Annotated[list[TokenId], Meta(min_length=1)] | None = None
    seed: Seed | None = None
    # how many, and how long
    n: Choices | None = None
    stop: Stops | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    # how the answer comes
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_logprobs: Tops | None = None
    logprobs_mode: Literal["raw", "masked"] | None = None
    return_token_ids: bool | None = None
    canonical: bool | None = None
    # what the text must be
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    constraint: dict[str, Any] | None = None
    # sent by clients, and without any effect on the answer (docs/openai-server.md lists them)
    user: Any = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    guided_decoding_backend: Any = None


class CompletionBody(Generation, kw_only=True):
    """POST /v1/completions"""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    max_tokens: Count | None = None
    echo: bool | None = None
    best_of: Choices | None = None
    logprobs: Tops | None = None
    return_tokens_as_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    heal: bool | None = None
    suffix: str | None = None


class TextPart(msgspec.Struct, kw_only=True):
    """A part of a message; other kinds than text are refused by name."""

    type: str
    text: str | None = None


class MessageBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One message of a conversation. What it means is the chat template's matter."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None


class ChatBody(Generation, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Tops | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    # without effect, as there are no tools, and one voice
    parallel_tool_calls: Any = None
    prediction: Any = None
    # known, and refused unless they ask for nothing
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    moderation: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None


class TokenizeBody(Body, kw_only=True):
    """POST /tokenize: a text, or a conversation."""

    prompt: str | None = None
    messages: list[MessageBody] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body, kw_only=True):
    """POST /detokenize"""

    tokens: list[TokenId]
