"""What an endpoint can do: found out by `probe`, or said by the user. Never concluded from a model's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

UNLIMITED = 1 << 31
"""`EndpointCapabilities.max_bias_entries` where there is no limit."""


class GrammarKind(StrEnum):
    """The forms in which a rule can be sent to an endpoint."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"
    EBNF = "ebnf"
    CONSTRAINT = "constraint"
    """`Constraint.to_dict()`: our own server."""


class Support(StrEnum):
    """What an endpoint does with a field."""

    HONOURED = "honoured"
    REFUSED = "refused"
    IGNORED = "ignored"
    """Accepted, and without any effect: the answer is not constrained."""


@dataclass(frozen=True, slots=True)
class GrammarSupport:
    """What an endpoint does with one kind of grammar."""

    support: Support
    field: str = ""
    """In which field of the body it is sent: ``structured_outputs.regex``, ``response_format`` …"""
    raw_logprobs: bool | None = None
    """Whether log-probabilities of its answers are those before its mask; None: as under a bias."""


class SamplingField(StrEnum):
    """What OpenAI's API has no field for, and some servers do."""

    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    IGNORE_EOS = "ignore_eos"


class Topic(StrEnum):
    """What is found out only when a request needs it."""

    SCORES = "scores"
    SEED = "seed"
    ALLOWED = "allowed_token_ids"
    CONTINUATION = "continuation"
    DECISIONS = "decisions"
    TOP_K = "top_k"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    IGNORE_EOS = "ignore_eos"
    JSON_SCHEMA = "grammar: json_schema"
    REGEX = "grammar: regex"
    CHOICE = "grammar: choice"
    EBNF = "grammar: ebnf"
    LARK = "grammar: lark"
    CONSTRAINT = "grammar: constraint"


TOPIC_OF: Mapping[GrammarKind, Topic] = MappingProxyType(
    {kind: Topic(f"grammar: {kind}") for kind in GrammarKind}
)
GRAMMAR_TOPICS = frozenset(TOPIC_OF.values())
FIELD_TOPICS: Mapping[SamplingField, Topic] = MappingProxyType(
    {item: Topic(item.value) for item in SamplingField}
)
NO_GRAMMARS: Mapping[GrammarKind, GrammarSupport] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCapabilities:
    """What one route of an endpoint takes and shows, for one model. The defaults promise nothing."""

    is_chat: bool = False
    """``/chat/completions``; else ``/completions``."""
    token_id_prompts: bool = False
    """A prompt may be token ids, so that it is read in exactly these tokens."""
    list_prompts: bool = False
    """Prompts with equal parameters may share one request."""
    continuation: bool = False
    """An answer can be continued from a part of it. (Always at ``/completions``.)"""
    continuation_style: str = ""
    """Of a chat: ``continue_final_message``, ``prefix`` or ``prefill`` (the transport's `ChatStyle`)."""
    exact_continuation: bool = False
    """Of a chat: the part is read as the model wrote it. Some templates put a blank before it, or trim it:
    the next token then comes from another distribution."""
    max_bias_entries: int = 0
    """`UNLIMITED`, 300 at OpenAI, 0 where ``logit_bias`` is refused or without effect."""
    bias_range: float = 100.0
    """Entries lie between this and its negative."""
    raw_logprobs: bool | None = None
    """Whether log-probabilities are those before biases and temperature; None: not known."""
    max_top_logprobs: int = 0
    """How many likeliest tokens are shown at each place."""
    shows_logprobs: bool = False
    """Log-probabilities of the answer's own tokens."""
    allowed_token_ids: bool = False
    """An exact mask of any size (vLLM, and our own server)."""
    grammars: Mapping[GrammarKind, GrammarSupport] = field(default_factory=lambda: NO_GRAMMARS)
    echo_scoring: bool = False
    """``echo`` with log-probabilities and ``max_tokens`` 0."""
    prompt_logprobs: bool = False
    """vLLM's field of that name, by token id."""
    returns_token_ids: bool = False
    """``return_token_ids`` (vLLM, SGLang, our own server)."""
    tokens_as_ids: bool = False
    """``return_tokens_as_token_ids``: log-probabilities name their tokens by id."""
    limit_field: str = "max_tokens"
    """Of a chat: ``max_tokens``, or ``max_completion_tokens`` (OpenAI's newer models)."""
    decisions: bool = False
    """``/decisions`` gives probabilities of options."""
    usage_in_streams: bool = True
    """``stream_options`` are taken."""
    seed: bool = False
    """Two requests with the same seed give the same tokens."""
    sampling_fields: frozenset[SamplingField] = frozenset()
    """Those that are obeyed."""
    temperature: bool = True
    """Whether temperatures other than 1 are taken (reasoning models refuse them)."""
    unasked: frozenset[Topic] = frozenset()
    """What nobody asked about yet; until then it counts as missing (`discovery.py`)."""
    max_stops: int = 4
    max_context: int | None = None
    """Prompt and answer together, in tokens, where the endpoint tells."""

    def honours(self, kind: GrammarKind) -> bool:
        """Whether grammars of this kind constrain the answer."""
        known = self.grammars.get(kind)
        return known is not None and known.support is Support.HONOURED

    def without(self, kind: GrammarKind) -> EndpointCapabilities:
        """The same after an answer that a grammar of this kind should have prevented."""
        known = self.grammars.get(kind, GrammarSupport(Support.IGNORED))
        changed = {**self.grammars, kind: replace(known, support=Support.IGNORED)}
        return replace(self, grammars=MappingProxyType(changed))


def in_words(able: EndpointCapabilities) -> dict[str, str]:
    """For `dcmodel backends --probe`."""
    raw = {True: "raw", False: "processed", None: "raw or processed: not known"}[able.raw_logprobs]
    entries = "any number of" if able.max_bias_entries >= UNLIMITED else str(able.max_bias_entries)
    sure = "" if able.exact_continuation else ", perhaps not as it was written"
    style = f"yes ({able.continuation_style}{sure})" if able.continuation_style else _yes(able.continuation)
    words = {
        "prompts as token ids": _yes(able.token_id_prompts),
        "lists of prompts": _yes(able.list_prompts),
        "continues a part of an answer": style,
        "logit_bias": f"{entries} entries" if able.max_bias_entries else "no",
        "log-probabilities": f"{raw}, {able.max_top_logprobs} likeliest" if able.shows_logprobs else "none",
        "allowed_token_ids": _yes(able.allowed_token_ids),
        "scores by echo": _yes(able.echo_scoring),
        "scores by prompt_logprobs": _yes(able.prompt_logprobs),
        "tells token ids": _yes(able.returns_token_ids or able.tokens_as_ids),
        "decisions": _yes(able.decisions),
        "seeds": _yes(able.seed),
        "temperatures": _yes(able.temperature),
        "usage in streams": _yes(able.usage_in_streams),
    }
    for item in SamplingField:
        words[item.value] = _yes(item in able.sampling_fields)
    for kind in GrammarKind:
        known = able.grammars.get(kind, GrammarSupport(Support.REFUSED))
        field = f" ({known.field})" if known.field else ""
        words[f"grammar: {kind}"] = f"{known.support}{field}"
    return words


def _yes(value: bool) -> str:
    return "yes" if value else "no"
