"""Decoding without a search: the likeliest token, samples, and the best of several samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dcmodel.checks import check_integer
from dcmodel.decoding.runs import run_to_end, together
from dcmodel.errors import InvalidRequestError
from dcmodel.session import Session
from dcmodel.types import Completion, SamplingParams

Ranking = Literal["sum", "mean"]


async def greedy(session: Session) -> Completion:
    """The likeliest allowed token at each step, until the text ends (no penalties, no bias)."""
    own = session.fork()
    await run_to_end(own, SamplingParams())
    return own.completion()


async def sample(session: Session, n: int = 1) -> Completion:
    """`n` independent samples under the session's own `SamplingParams`, drawn side by side.

    The first one; the others are its `alternatives`, in the order in which they were drawn. The seeds of
    the samples follow from the session's, so that they differ from one another and come again. Raises
    `DeadEndError` where any of them ran into one.
    """
    check_integer("n", n, low=1)
    owns = [session.fork() for _ in range(n)]
    for answer in await together(map(run_to_end, owns)):
        if answer is not None:
            raise answer
    return with_alternatives([own.completion() for own in owns])


async def best_of(session: Session, n: int, keep: int = 1, by: Ranking = "mean") -> Completion:
    """The `keep` best of `n` samples, by the ``mean`` or the ``sum`` of their tokens' raw log-probabilities.

    `score` is that number. The same tokens come only once, so there may be fewer than `keep`. Texts that
    satisfy the constraint come before those that `max_tokens` cut short; samples that ran into a dead end
    drop out. Raises `DeadEndError` where all did.
    """
    check_integer("n", n, low=1)
    check_integer("keep", keep, low=1, high=n)
    if by not in ("sum", "mean"):
        raise InvalidRequestError(f"by is {by!r}.", remedy='It is "sum" or "mean".')
    owns = [session.fork() for _ in range(n)]
    answers = await together(map(run_to_end, owns))
    ended = {own.token_ids: own for own, dead_end in zip(owns, answers, strict=True) if dead_end is None}
    if not ended:
        raise next(dead_end for dead_end in answers if dead_end is not None)
    ranked = sorted(ended.values(), key=lambda own: (not own.is_accepting, -_score(own, by)))
    return with_alternatives([replace(own.completion(), score=_score(own, by)) for own in ranked[:keep]])


def with_alternatives(completions: Sequence[Completion]) -> Completion:
    """The first, with the others as its alternatives."""
    return replace(completions[0], alternatives=tuple(completions[1:]))


def _score(session: Session, by: Ranking) -> float:
    total = math.fsum(session.token_logprobs)
    return total / max(len(session.token_ids), 1) if by == "mean" else total
