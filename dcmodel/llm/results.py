"""What the scoring methods of `LLM` return. Log-probabilities are raw ones, in nats."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from dcmodel.errors import InvalidRequestError
from dcmodel.types import Certificate, TopLogprob

Normalizer = Literal["sum", "mean", "byte", "pmi"]
"""What `choose` weighs options by.

sum    the sum of their tokens' log-probabilities: the model's own odds between the texts
mean   the sum over the number of tokens, which does not favour short options
byte   the sum over the number of UTF-8 bytes: the same, whatever the tokenizer
pmi    the sum less the sum of the same text after an unconditional prompt (pointwise mutual information;
       "domain conditional PMI" of Holtzman et al. 2021), which does not favour texts that are common anyway
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A text after a prompt, and how likely the model finds it."""

    text: str
    """As given; of token ids, what they decode to."""
    logprob: float
    """Sum of the log-probabilities of its tokens."""
    probability: float
    """`score`: ``exp(logprob)``. `choose`: the share among the options."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One per token id."""
    ranks: tuple[int, ...]
    """Place of each token in the model's order, 0 = likeliest."""
    is_greedy: bool
    """Whether each token is the model's likeliest."""
    top_logprobs: tuple[tuple[TopLogprob, ...], ...] = ()
    """The likeliest tokens at each place, where they were asked for."""
    pmi: float | None = None
    """`logprob` less that of the same text after the unconditional prompt; None where none was given.
    Where the end was scored, it counts to both."""
    end_logprob: float | None = None
    """Log-probability that the text ends here, over all end-of-sequence tokens; None where it was not
    scored. Not part of `logprob`."""

    @property
    def mean_logprob(self) -> float:
        """`logprob` per token."""
        return self.logprob / len(self.token_ids)

    @property
    def byte_logprob(self) -> float:
        """`logprob` per UTF-8 byte of `text`; NaN for tokens that stand for no text."""
        size = len(self.text.encode())
        return self.logprob / size if size else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """One token of a prompt that was scored itself."""

    token_id: int
    text: str
    """What it adds to the text: whole characters only, perhaps none."""
    logprob: float | None
    """After the tokens before it; None for the first, which has none before it."""
    rank: int | None
    """Place in the model's order, 0 = likeliest."""
    top_logprobs: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceResult:
    """A probability distribution over the options of `LLM.choose`."""

    results: tuple[Scored, ...]
    """In the order in which the options were given; probabilities sum to 1."""
    normalizer: Normalizer
    ended: bool = False
    """Whether the end of the text after each option counts to its weight (`LLM.choose`: `end_of_text`)."""
    certificate: Certificate | None = None
    """Where the probabilities are not a softmax over weights but an endpoint's own judgement: what is known
    of them. Log-probabilities of `results` are NaN then, and there are no ranks."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingScore:
    """A whole text, and how likely the model finds it."""

    text: str
    """As given; of token ids, what they decode to."""
    logprob: float
    """Sum of the log-probabilities of all its tokens."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One per token id."""

    @property
    def byte_logprob(self) -> float:
        """`logprob` per UTF-8 byte of `text`; NaN for tokens that stand for no text."""
        size = len(self.text.encode())
        return self.logprob / size if size else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of `text` (lm-evaluation-harness' ``bits_per_byte``)."""
        return -self.byte_logprob / math.log(2)

    @property
    def perplexity(self) -> float:
        """Per token."""
        return _exp(-self.logprob / len(self.token_ids))

    @property
    def word_perplexity(self) -> float:
        """Per word, where words are what stands between runs of whitespace (lm-evaluation-harness'
        ``word_perplexity``)."""
        return _exp(-self.logprob / len(re.split(r"\s+", self.text)))


def check_normalizer(value: str, *, has_unconditional: bool) -> None:
    """Raise `InvalidRequestError` for an unknown one, and for ``pmi`` without its prompt."""
    if value not in get_args(Normalizer):
        raise InvalidRequestError(
            f"normalizer is {value!r}; it must be one of {', '.join(get_args(Normalizer))}."
        )
    if value == "pmi" and not has_unconditional:
        raise InvalidRequestError(
            "normalizer is 'pmi' and there is no unconditional prompt to compare with.",
            remedy='Give unconditional=, a prompt without the question: "Answer:".',
        )


def _exp(value: float) -> float:
    """Infinity where a float holds no more."""
    return math.exp(value) if value < 709 else math.inf
