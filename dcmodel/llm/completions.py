"""Prompts against a loaded model, to the end: the one core of both faces of `LLM.generate`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from dcmodel.decoding.sampling import with_alternatives
from dcmodel.errors import DeadEndError
from dcmodel.llm.batches import raise_first, run_batch
from dcmodel.llm.options import RequestTemplate
from dcmodel.llm.prompts import Prompt, Prompts, split_prompts
from dcmodel.llm.searches import search
from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import Completion, GenerateRequest

T = TypeVar("T")


def start(model: DcModel, template: RequestTemplate, prompt: Prompt, index: int = 0) -> GenerateStream:
    """Start the request of prompt number `index`; call it inside a running event loop."""
    return model.generate(template.fill(model.tokenizer, prompt, index, can_heal=model.can_heal))


async def generate_all(
    model: DcModel,
    template: RequestTemplate,
    prompts: Prompt | Prompts,
    progress: bool | None,
    return_exceptions: bool,
) -> Completion | list[Completion] | list[Completion | Exception]:
    """One prompt or a batch, to the end."""
    items, is_batch = split_prompts(prompts)
    jobs = [partial(_generate, model, template, prompt, index) for index, prompt in enumerate(items)]
    if not is_batch:
        return await jobs[0]()
    results = await run_batch(jobs, progress=progress)
    return results if return_exceptions else raise_first(results)


async def _generate(model: DcModel, template: RequestTemplate, prompt: Prompt, index: int) -> Completion:
    request = template.fill(model.tokenizer, prompt, index, can_heal=model.can_heal)
    strategy = template.strategy
    if strategy.needs_session:
        return await search(await model.session(request), strategy, request.sampling)
    if strategy.best_of is not None:
        return await _best_of(model, request, strategy.best_of, strategy.n)
    if strategy.n > 1:
        return with_alternatives(
            await _at_once(_complete(model, item) for item in _draws(request, strategy.n))
        )
    return await _complete(model, request)


def seed_of_draw(seed: int | None, number: int) -> int | None:
    """The seed of text number `number` of one prompt: the first has the request's own, the others a hash
    of it, so that they are none of the seeds of a batch (``seed + i``)."""
    if seed is None or number == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _draws(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """The same request, with a seed of its own for each text."""
    seeds = [seed_of_draw(request.sampling.seed, number) for number in range(count)]
    return [replace(request, sampling=replace(request.sampling, seed=seed)) for seed in seeds]


async def _best_of(model: DcModel, request: GenerateRequest, count: int, keep: int) -> Completion:
    """As `decoding.best_of` ranks them, over plain requests: any backend serves them."""
    requests = _draws(replace(request, logprobs=True), count)
    answers = await _at_once(_unless_dead_end(model, item) for item in requests)
    drawn = {item.token_ids: item for item in answers if isinstance(item, Completion)}
    if not drawn:
        raise next(item for item in answers if isinstance(item, DeadEndError))
    scored = [replace(item, score=_mean(item)) for item in drawn.values()]
    ranked = sorted(scored, key=lambda item: (item.certificate.valid is False, -(item.score or 0.0)))[:keep]
    return with_alternatives([item if request.logprobs else replace(item, logprobs=None) for item in ranked])


def _mean(completion: Completion) -> float:
    return completion.raw_logprob / max(len(completion.token_ids), 1)


async def _at_once(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The first that fails ends the others."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _complete(model: DcModel, request: GenerateRequest) -> Completion:
    stream = model.generate(request)
    try:
        return await stream.completion()
    finally:
        stream.cancel()  # if whoever awaited this was cancelled; nothing happens to a finished request


async def _unless_dead_end(model: DcModel, request: GenerateRequest) -> Completion | DeadEndError:
    try:
        return await _complete(model, request)
    except DeadEndError as error:
        return error
