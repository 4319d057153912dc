"""Running the requests of a job to their ends; whoever stops waiting stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import Completion, GenerateRequest, ScoredContinuation
from lmql_backends.lmtp.server.openai.jobs import Job, PromptJob


class PromptResult:
    """What came of one prompt."""

    def __init__(self, job: PromptJob) -> None:
        self.job = job
        self.texts: list[Completion] = []
        self.scored: ScoredContinuation | None = None


async def run_job(model: DcModel, job: Job) -> list[PromptResult]:
    """All of it at once. The first error ends the rest, and is raised."""
    results = [PromptResult(item) for item in job.prompts]
    streams: list[GenerateStream] = []

    async def finish(result: PromptResult, mine: Sequence[GenerateStream]) -> None:
        result.texts = [await stream.completion() for stream in mine]

    async def score(result: PromptResult) -> None:
        assert result.job.score is not None
        result.scored = (await model.score(result.job.score)).prompt

    try:
        groups = []
        for result in results:
            groups.append(start_all(model, result.job.draws, streams))
        work = [finish(result, mine) for result, mine in zip(results, groups, strict=True) if mine]
        work += [score(result) for result in results if result.job.score is not None]
        await at_once(work)
    finally:
        for stream in streams:
            stream.cancel()  # does nothing to those that have ended
    return results


def without_draws(job: Job) -> Job:
    """The same prompts, to be scored only."""
    return replace(job, prompts=tuple(replace(item, draws=()) for item in job.prompts))


def start_all(
    model: DcModel, requests: Iterable[GenerateRequest], started: list[GenerateStream]
) -> list[GenerateStream]:
    """The streams of requests, which are put into `started` one by one, for whoever has to cancel them."""
    mine = []
    for request in requests:
        mine.append(model.generate(request))
        started.append(mine[-1])
    return mine


async def at_once(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first error cancels the others, and is raised as it is."""
    if len(work) == 1:
        await work[0]
        return
    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(item)
    except BaseExceptionGroup as failures:
        raise first_of(failures) from None


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group of errors."""
    first = failures.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def best(texts: Sequence[Completion], keep: int) -> list[Completion]:
    """The best by log-probability per token; those that the constraint cut short come last.

    Unlike `LLM.generate`'s, the same tokens may come twice: clients count on `keep` texts.
    """
    if len(texts) <= keep:
        return list(texts)

    def rank(item: Completion) -> tuple[bool, float]:
        return item.certificate.valid is False, -item.raw_logprob / max(len(item.token_ids), 1)

    return sorted(texts, key=rank)[:keep]
