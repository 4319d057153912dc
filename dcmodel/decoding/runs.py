"""What every way of decoding does between two questions to the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from dcmodel.errors import DeadEndError
from dcmodel.session import Session
from dcmodel.types import SamplingParams, TokenLogprobs

T = TypeVar("T")


def append_forced(session: Session) -> None:
    """Put all that the constraint forces behind the text, without asking the model."""
    while not session.is_finished and (run := session.forced()):
        for token_id in run:
            if session.is_finished:  # a stop string, or `max_tokens`, within the run
                return
            session.append([token_id], forced=True)


def known_logprobs(raw: float, log_mass: float) -> TokenLogprobs:
    """Of a token that a mask allowed which kept this mass."""
    return TokenLogprobs(raw_logprob=raw, masked_logprob=raw - log_mass, log_mass=log_mass)


async def run_to_end(session: Session, sampling: SamplingParams | None = None) -> None:
    """Draw token after token until the text ends, and have all of them scored."""
    append_forced(session)
    while not session.is_finished:
        await session.step(sampling=sampling)
        append_forced(session)
    await session.settle()


async def together(calls: Iterable[Awaitable[T]]) -> list[T | DeadEndError]:
    """Await all in one turn of the loop, so that the model computes them in one batch.

    A dead end takes the place of its result; any other error is raised once all have ended.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    answers: list[T | DeadEndError] = []
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, DeadEndError):
            raise result
        answers.append(result)
    return answers
