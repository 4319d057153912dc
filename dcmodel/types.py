"""What callers hand in and get back. Log-probabilities are in nats throughout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmodel.checks import check_integer, check_number
from dcmodel.constraint import Constraint
from dcmodel.errors import InvalidRequestError

EMPTY_BIAS: Mapping[int, float] = MappingProxyType({})
MAX_TOP_LOGPROBS = 1000
LARGEST, LARGEST_BIAS = 1e6, 1e30
"""Beyond them float32 overflows: of temperatures and penalties, and of biases."""


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """An end-of-sequence token, a stop string, or a constraint with nothing left to say."""
    LENGTH = "length"
    """`max_tokens`, or the model's context, ran out."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn.

    Order of operations: repetition penalty, presence and frequency penalties, logit bias,
    temperature, mask, top-k, top-p, min-p (each on what the one before it left).
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens that holds this mass."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the likeliest token's probability."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt and output (1 = off)."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of tokens that are in the output."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence in the output."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: EMPTY_BIAS)
    """Added to the logits of these token ids."""
    seed: int | None = None
    """With a seed the same request gives the same tokens, whatever else runs beside it."""

    def __post_init__(self) -> None:
        check_number(
            "temperature",
            self.temperature,
            low=0.0,
            high=LARGEST,
            remedy="0 is greedy, 1 is the model's own.",
        )
        check_integer("top_k", self.top_k, low=0)
        check_number("top_p", self.top_p, low=0.0, high=1.0, open_low=True)
        check_number("min_p", self.min_p, low=0.0, high=1.0)
        check_number("repetition_penalty", self.repetition_penalty, low=1 / LARGEST, high=LARGEST)
        check_number("presence_penalty", self.presence_penalty, low=-LARGEST, high=LARGEST)
        check_number("frequency_penalty", self.frequency_penalty, low=-LARGEST, high=LARGEST)
        for token_id, bias in self.logit_bias.items():
            check_integer("a token id in logit_bias", token_id, low=0)
            check_number(f"logit_bias[{token_id}]", bias, low=-LARGEST_BIAS, high=LARGEST_BIAS)
        if self.seed is not None:
            check_integer("seed", self.seed)

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One prompt, one continuation."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = SamplingParams()
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    """Generation ends where one of these appears, also across token borders."""
    include_stop: bool = False
    """Whether the text keeps the stop string."""
    max_tokens: int = 256
    logprobs: bool = True
    """Report raw and masked log-probabilities and the mask's mass for each token."""
    top_logprobs: int = 0
    """How many likeliest tokens to report at each step, before and after the mask."""
    healed: str = ""
    """The end of the prompt's text, whose tokens were taken back (see `constraints.healing`): the output
    begins with it, in tokens of the model's choice, and the text that is shown does not."""
    canonical: bool = False
    """Refuse tokens that the tokenizer itself would not put one after the other."""
    ignore_eos: bool = False
    """Go on past end-of-sequence tokens (benchmarks); not together with a constraint."""
    adapter: str | None = None
    """The name of a mounted adapter (`DcModel.mount_adapter`); None: the model as it is."""
    resumed: tuple[int, ...] = ()
    """The beginning of the output, which exists already: a stream that goes on after a lost connection. What
    follows is what would have followed without the interruption (where greedy, or with the same seed). The
    stream begins behind it; the completion covers the whole output, with NaN for these log-probabilities."""

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise InvalidRequestError("the prompt is empty.", remedy="Give at least one token.")
        check_integer("max_tokens", self.max_tokens, low=1)
        check_integer("top_logprobs", self.top_logprobs, low=0, high=MAX_TOP_LOGPROBS)
        if any(not text for text in self.stop):
            raise InvalidRequestError("a stop string is empty.", remedy="Remove it from `stop`.")
        if self.ignore_eos and self.constraint is not None:
            raise InvalidRequestError(
                "ignore_eos cannot go with a constraint.", remedy="A constraint decides where the text ends."
            )
        if self.healed and self.constraint is not None and self.constraint.is_about_tokens:
            raise InvalidRequestError(
                f"a healed prompt cannot go with a constraint about tokens ({self.constraint.kind}).",
                remedy="Leave `healed` empty.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One prompt, many continuations, each a list of token ids."""

    prompt_ids: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...] = ()
    """May be none where `prompt_logprobs` is asked for; the same one may come several times."""
    top_logprobs: int = 0
    """How many likeliest tokens to report at each place of a continuation."""
    prompt_logprobs: int | None = None
    """Score the prompt's own tokens too (all but the first), with so many likeliest at each place; None: no.
    The prompt is then computed even if it is cached."""
    adapter: str | None = None
    """As in `GenerateRequest`."""

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise InvalidRequestError("the prompt is empty.", remedy="Give at least one token.")
        if not self.continuations and self.prompt_logprobs is None:
            raise InvalidRequestError("there is nothing to score.", remedy="Give at least one continuation.")
        empty = next((place for place, item in enumerate(self.continuations) if not item), None)
        if empty is not None:
            raise InvalidRequestError(
                f"continuation number {empty} is empty: there is nothing to score.",
                remedy="Give continuations of at least one token.",
            )
        if self.prompt_logprobs is not None:
            check_integer("prompt_logprobs", self.prompt_logprobs, low=0, high=MAX_TOP_LOGPROBS)
            if len(self.prompt_ids) == 1:
                raise InvalidRequestError(
                    "a prompt of one token has no log-probabilities: nothing stands before it.",
                    remedy="Leave prompt_logprobs out.",
                )
        check_integer("top_logprobs", self.top_logprobs, low=0, high=MAX_TOP_LOGPROBS)


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens of a step."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """The log-probabilities of one token of the output.

    ``masked_logprob == raw_logprob - log_mass`` by definition: both are of the model's own
    distribution (temperature 1, no penalties, no bias), before and after the mask.
    """

    raw_logprob: float
    masked_logprob: float
    log_mass: float
    """Log of the probability mass that the mask kept; 0 without a mask."""
    top_raw: tuple[TopLogprob, ...] = ()
    top_masked: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStep:
    """One token of a stream."""

    token_id: int
    text: str
    """What this token adds to the text: whole characters only, perhaps none."""
    forced: bool = False
    """The constraint left no choice; the model was not asked."""
    logprobs: TokenLogprobs | None = None
    finish_reason: FinishReason | None = None
    """Set on the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a request cost, in tokens."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the prefix cache had already."""
    completion_tokens: int
    forced_tokens: int
    """Completion tokens for which the model was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is known about a result, and how."""

    valid: bool | None
    """Whether the text satisfies the constraint, checked to the end; None without a constraint.
    False only where `finish_reason` is ``length`` or ``cancelled``: a prefix of valid texts."""
    exact: bool
    """The masks were those of the constraint at each step, over the whole vocabulary. False where a token
    may have been refused that need not have been; `detail` says why. Never the other way round."""
    bound: float | None = None
    """Where not `exact`, and known: an upper bound of the total variation, at any one step, between the
    distribution that was drawn from and local masking."""
    semantics: str = "local"
    """``local``: each token from the masked, renormalised distribution. ``global``: drawn from the model's
    distribution given the constraint; `detail` says how exactly. ``judged``: from an endpoint's own
    probabilities of whole texts."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an answer cost at an endpoint that bills it."""

    requests: int = 0
    """HTTP requests, repeated ones and hedges included. One that several prompts shared counts for each."""
    retries: int = 0
    hedges: int = 0
    prompt_tokens: int = 0
    """As billed: a prompt that was sent again is counted again."""
    cached_tokens: int = 0
    """Of these, the ones that the endpoint had in its cache."""
    completion_tokens: int = 0
    """As billed: tokens that were not used, too."""
    price: float | None = None
    """In the currency of the prices that the user gave; None without prices."""
    is_estimated: bool = False
    """The endpoint did not tell all of it: a response was closed early, or lost."""

    def __add__(self, other: Cost) -> Cost:
        prices = [item.price for item in (self, other) if item.price is not None]
        return Cost(
            requests=self.requests + other.requests,
            retries=self.retries + other.retries,
            hedges=self.hedges + other.hedges,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            price=sum(prices) if prices else None,
            is_estimated=self.is_estimated or other.is_estimated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished generation."""

    text: str
    token_ids: tuple[int, ...]
    """Everything after the prompt, an end-of-sequence token that was drawn included."""
    finish_reason: FinishReason
    stop_reason: str
    """What ended it: ``eos``, ``constraint``, ``max_tokens``, ``context``, ``cancelled``,
    or the stop string itself as ``stop:...``."""
    logprobs: tuple[TokenLogprobs, ...] | None
    """One per token id, where they were asked for."""
    forced: tuple[bool, ...]
    usage: Usage
    certificate: Certificate
    cost: Cost | None = None
    """Where an endpoint bills it; None for a model of our own."""
    healed: str = ""
    """What the first tokens repeat of the prompt; not in `text`."""
    parsed: Any = None
    """The text as the constraint's value (JSON value, model instance, parse tree); None if incomplete."""
    score: float | None = None
    """What the search ranked it by, where there was one (beams, best of several)."""
    weight: float | None = None
    """Exact sampling: this text's share of all that were drawn, from 0 to 1."""
    log_z: float | None = None
    """Exact sampling: estimate of the log of the probability that the unconstrained model would have
    satisfied the constraint within `max_tokens`."""
    alternatives: tuple[Completion, ...] = ()
    """The other results of the same prompt (`n`, beams, particles), in the order of their ranks."""

    @property
    def raw_logprob(self) -> float:
        """Sum of the raw log-probabilities: what `score` says of the same tokens."""
        return math.fsum(item.raw_logprob for item in self.logprobs or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredContinuation:
    """One continuation of a `ScoreRequest`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Raw log-probability of each token after everything before it."""
    ranks: tuple[int, ...]
    """Place of each token in the model's order, 0 = likeliest."""
    top_logprobs: tuple[tuple[TopLogprob, ...], ...] = ()

    @property
    def logprob(self) -> float:
        """The sum, in nats."""
        return math.fsum(self.logprobs)

    @property
    def mean_logprob(self) -> float:
        """Per token."""
        return self.logprob / len(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        return not any(self.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """Continuations in the order of the request."""

    continuations: tuple[ScoredContinuation, ...]
    usage: Usage
    prompt: ScoredContinuation | None = None
    """The prompt's tokens from the second on, if `prompt_logprobs` was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NextTokens:
    """The distribution of one next token, before and after a mask.

    Either the k likeliest tokens that the mask allows (fewer if it allows fewer), likeliest first, or the
    whole vocabulary in the order of the ids.
    """

    token_ids: NDArray[np.int64]
    """[k]"""
    raw_logprobs: NDArray[np.float32]
    """[k] of the model itself, in nats."""
    masked_logprobs: NDArray[np.float32]
    """[k] ``raw_logprobs - log_mass``; -inf where the mask refuses the token."""
    log_mass: float
    """Log of the probability that the mask kept; 0 without a mask."""

    def of(self, place: int) -> TokenLogprobs:
        """What is known of ``token_ids[place]``: the token itself, where this is the whole vocabulary."""
        return TokenLogprobs(
            raw_logprob=float(self.raw_logprobs[place]),
            masked_logprob=float(self.masked_logprobs[place]),
            log_mass=self.log_mass,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What stands behind a `DcModel`."""

    name: str
    backend: str
    vocab_size: int
    max_positions: int
    """Prompt and completion together, in tokens."""
    device: str = "cpu"
    dtype: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    chat_template: str = ""
    """Jinja source; empty where the model has none, or its backend does not tell."""
