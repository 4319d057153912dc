"""What an endpoint takes and shows: the knobs of the double, and sets of them for known kinds of servers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dcmodel.errors import InvalidRequestError

Support = Literal["honoured", "refused", "ignored"]
"""Of a field: it does what it says; it is a 400; it is taken, and changes nothing."""
Logprobs = Literal["raw", "processed", "none"]
"""Log-probabilities of the model itself; after the bias and the mask; none (then the fields are refused)."""
Count = Annotated[int, Meta(ge=0)]

GRAMMARS = (
    "json_object",
    "json_schema",
    "structured_outputs.json",
    "structured_outputs.json_object",
    "structured_outputs.regex",
    "structured_outputs.choice",
    "structured_outputs.grammar",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "regex",
    "choice",
    "grammar",
    "constraint",
    "custom_tool.lark",
    "custom_tool.regex",
)
"""Ways to ask for a form of the text. The first two are types of ``response_format``, the last two are
OpenAI's custom tools; the others are fields of the body."""

OPENAI_GRAMMARS: Mapping[str, Support] = MappingProxyType(
    {
        "json_object": "honoured",
        "json_schema": "honoured",
        "custom_tool.lark": "honoured",
        "custom_tool.regex": "honoured",
    }
)


class OpenAILimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one endpoint. The defaults are OpenAI's; `PRESETS` has those of other servers."""

    # fields
    model_required: bool = True
    unknown_fields: Support = "refused"
    """Fields that nobody has; they cannot be honoured, which then means ignored."""
    extra_fields: Support = "refused"
    """Fields of vLLM's and ours that have no knob of their own, such as ``top_k``."""
    extra_answers: bool = False
    """Whether choices show ``certificate``, ``ended_by`` and ``stop_reason``, and usage forced tokens."""
    own_routes: bool = False
    """Whether /tokenize and /detokenize exist."""
    decisions: bool = True
    """Whether /v1/decisions exists."""
    # prompts
    token_id_prompts: bool = True
    list_prompts: bool = True
    continuation: Support = "ignored"
    """Of ``continue_final_message``; ignored: an answer that was begun is followed by another one."""
    always_continues: bool = False
    """A conversation that ends with the assistant's words is continued unasked, as by llama.cpp."""
    # how tokens are drawn
    max_bias_entries: Count | None = 300
    """None: any number; 0: the field is refused."""
    bias_range: float = 100.0
    max_bias_id: int | None = None
    """Ids above are refused; None: those of the vocabulary are taken."""
    max_temperature: float | None = 2.0
    seed: Support = "honoured"
    allowed_token_ids: Support = "refused"
    # how many, and how long
    max_tokens: Count | None = None
    max_stops: Count | None = 4
    max_texts: Count | None = 128
    """Of ``n``."""
    # what is shown
    logprobs: Logprobs = "raw"
    max_top_logprobs: Count | None = 20
    """Of chats."""
    max_text_logprobs: Count | None = 5
    """Of completions."""
    shown_ranks: Count | None = 20
    """A chat's token that is less likely than so many others has the log-probability -9999."""
    echo: Support = "honoured"
    echo_logprobs: bool = False
    """Whether the echoed prompt comes with log-probabilities."""
    echo_alone: bool = True
    """Whether ``max_tokens`` may be 0."""
    prompt_logprobs: Support = "refused"
    token_ids: Support = "refused"
    """Of ``return_token_ids`` and ``return_tokens_as_token_ids``."""
    # what the text must be
    grammars: Mapping[str, Support] = msgspec.field(default_factory=lambda: OPENAI_GRAMMARS)
    """By the names of `GRAMMARS`."""
    other_grammars: Support = "refused"
    """Of those that `grammars` does not name."""
    strict_schemas: bool = True
    """As OpenAI: a schema holds only with ``strict``, and must then be of the subset that OpenAI takes."""

    def __post_init__(self) -> None:
        for name in self.grammars:
            if name not in GRAMMARS:
                raise ValueError(f"grammars has {name!r}; there are {', '.join(GRAMMARS)}")
        if self.bias_range <= 0 or self.bias_range > 100:
            raise ValueError(f"bias_range is {self.bias_range:g}; it must be above 0 and at most 100")

    def grammar(self, name: str) -> Support:
        """What becomes of this way to ask for a form."""
        return self.grammars.get(name, self.other_grammars)


OPEN: Mapping[str, Any] = {
    "model_required": False,
    "own_routes": True,
    "decisions": False,
    "max_bias_entries": None,
    "max_temperature": None,
    "max_stops": None,
    "max_top_logprobs": None,
    "max_text_logprobs": None,
    "shown_ranks": None,
    "echo_logprobs": True,
    "strict_schemas": False,
    "other_grammars": "honoured",
    "continuation": "honoured",
    "allowed_token_ids": "honoured",
    "prompt_logprobs": "honoured",
    "token_ids": "honoured",
}
"""Nothing is kept from clients."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "openai": {},
    "vllm": {
        **OPEN,
        "unknown_fields": "ignored",
        "extra_fields": "honoured",
        "max_top_logprobs": 20,
        "max_text_logprobs": 20,
        "other_grammars": "ignored",
        "grammars": {
            "json_object": "honoured",
            "json_schema": "honoured",
            "structured_outputs.json": "honoured",
            "structured_outputs.json_object": "honoured",
            "structured_outputs.regex": "honoured",
            "structured_outputs.choice": "honoured",
            "structured_outputs.grammar": "honoured",
        },
    },
    "sglang": {
        **OPEN,
        "unknown_fields": "ignored",
        "extra_fields": "ignored",
        "own_routes": False,
        "echo_alone": False,
        "allowed_token_ids": "ignored",
        "prompt_logprobs": "ignored",
        "other_grammars": "ignored",
        "grammars": {"json_object": "honoured", "json_schema": "honoured", "regex": "honoured"},
    },
    "llamacpp": {
        **OPEN,
        "unknown_fields": "ignored",
        "extra_fields": "ignored",
        "list_prompts": False,
        "always_continues": True,
        "continuation": "ignored",
        "logprobs": "raw",
        "echo": "ignored",
        "allowed_token_ids": "ignored",
        "prompt_logprobs": "ignored",
        "token_ids": "ignored",
        "other_grammars": "ignored",
        "grammars": {"json_object": "honoured", "json_schema": "honoured", "grammar": "honoured"},
    },
    "open": {**OPEN, "extra_fields": "honoured", "extra_answers": True},
}
"""By name: what differs from OpenAI's. Those of other servers are what their documentation says, roughly."""


def limits_from(given: Mapping[str, Any], *, place: str = "limits") -> OpenAILimits:
    """From plain values; ``preset`` names what the others change. Raises `InvalidRequestError`."""
    values = dict(given)
    name = values.pop("preset", "openai")
    if name not in PRESETS:
        raise InvalidRequestError(
            f"{place}: there is no preset {name!r:.60}.", remedy=f"There are {', '.join(PRESETS)}."
        )
    try:
        return msgspec.convert({**PRESETS[name], **values}, OpenAILimits)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            f"{place}: {error}.", remedy="docs/openai-double.md lists the limits."
        ) from None
