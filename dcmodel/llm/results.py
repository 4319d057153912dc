"""What `LLM.score` and `LLM.choose` return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dcmodel.errors import InvalidRequestError, NonFiniteLogitsError
from dcmodel.types import ScoredContinuation

Normalizer = Literal["sum", "mean"]
"""How `choose` weighs options: by the sum of their tokens' log-probabilities, or by their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A text after a prompt, and how likely the model finds it."""

    text: str
    logprob: float
    """Sum of the raw log-probabilities of its tokens, in nats."""
    probability: float
    """`score`: ``exp(logprob)``. `choose`: the share among the options."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One per token id."""
    is_greedy: bool
    """Whether each token is the model's likeliest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceResult:
    """A probability distribution over the options of `LLM.choose`."""

    results: tuple[Scored, ...]
    """In the order in which the options were given; probabilities sum to 1."""
    normalizer: Normalizer

    @property
    def best(self) -> Scored:
        """The likeliest option; the first of equals."""
        return max(self.results, key=lambda item: item.probability)

    @property
    def text(self) -> str:
        """The likeliest option's text."""
        return self.best.text

    @property
    def index(self) -> int:
        """The likeliest option's place among those given."""
        return self.results.index(self.best)

    @property
    def ranked(self) -> tuple[Scored, ...]:
        """All options, likeliest first."""
        return tuple(sorted(self.results, key=lambda item: -item.probability))

    @property
    def probabilities(self) -> dict[str, float]:
        """Option to probability."""
        return {item.text: item.probability for item in self.results}


def scored(text: str, continuation: ScoredContinuation, probability: float | None = None) -> Scored:
    """Put a text to the scores of its tokens."""
    logprob = continuation.logprob
    return Scored(
        text=text,
        logprob=logprob,
        probability=math.exp(logprob) if probability is None else probability,
        token_ids=continuation.token_ids,
        logprobs=continuation.logprobs,
        is_greedy=continuation.is_greedy,
    )


def distribution(
    options: Sequence[str], continuations: Sequence[ScoredContinuation], normalizer: Normalizer
) -> ChoiceResult:
    """A softmax over the options' summed (or mean) log-probabilities."""
    lengths = [len(item.token_ids) if normalizer == "mean" else 1 for item in continuations]
    weights = [item.logprob / length for item, length in zip(continuations, lengths, strict=True)]
    top = max(weights)
    if top == -math.inf:
        raise NonFiniteLogitsError("the model gives every option the probability 0.")
    shares = [math.exp(weight - top) for weight in weights]
    total = math.fsum(shares)
    return ChoiceResult(
        results=tuple(
            scored(text, item, share / total)
            for text, item, share in zip(options, continuations, shares, strict=True)
        ),
        normalizer=normalizer,
    )


def check_normalizer(value: str) -> None:
    if value not in get_args(Normalizer):
        raise InvalidRequestError(
            f"normalizer is {value!r}; it must be one of {', '.join(get_args(Normalizer))}."
        )
