"""Scoring the end of a text: each continuation once for each token that can end it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from dcmodel.types import ScoredContinuation, ScoreRequest, ScoreResult


@dataclass(frozen=True, slots=True)
class Ended:
    """A continuation, and the log-probability that the text ends after it (None: not asked)."""

    continuation: ScoredContinuation
    end_logprob: float | None

    @property
    def logprob(self) -> float:
        """Of the continuation with its end, in nats."""
        return self.continuation.logprob + (self.end_logprob or 0.0)


def with_endings(request: ScoreRequest, eos_token_ids: Sequence[int]) -> ScoreRequest:
    """Every continuation followed by each of `eos_token_ids`; unchanged where there are none.

    The copies of a continuation share their prefix: a tree of tokens computes it once.
    """
    if not eos_token_ids:
        return request
    ended = ((*ids, eos) for ids in request.continuations for eos in eos_token_ids)
    return replace(request, continuations=tuple(ended))


def split_endings(result: ScoreResult, eos_token_ids: Sequence[int]) -> list[Ended]:
    """The scores of the continuations that `with_endings` had been given."""
    items = result.continuations
    if not eos_token_ids:
        return [Ended(item, None) for item in items]
    count = len(eos_token_ids)
    groups = (items[place : place + count] for place in range(0, len(items), count))
    return [
        Ended(_without_last(group[0]), log_sum_exp(item.logprobs[-1] for item in group)) for group in groups
    ]


def has_prefixes(sequences: Iterable[tuple[int, ...]]) -> bool:
    """Whether one of them is the beginning of another (of a longer one)."""
    ordered = sorted(set(sequences))  # whatever begins with one of them comes right behind it
    return any(after[: len(one)] == one for one, after in pairwise(ordered))


def log_sum_exp(values: Iterable[float]) -> float:
    """Log of the sum of the exponentials."""
    items = list(values)
    top = max(items)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(item - top) for item in items))


def _without_last(item: ScoredContinuation) -> ScoredContinuation:
    return replace(
        item,
        token_ids=item.token_ids[:-1],
        logprobs=item.logprobs[:-1],
        ranks=item.ranks[:-1],
        top_logprobs=item.top_logprobs[:-1],
    )
