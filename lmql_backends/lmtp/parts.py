"""Large questions in several messages: a frame, and what a server takes in one, have bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from dcmodel.types import ScoreRequest, ScoreResult

T = TypeVar("T")
MAX_ITEMS = 4096
"""Continuations, or prefixes, of one question."""
MAX_TOKENS = 1 << 18
"""Token ids of one question: at most 2 MB in either form."""
MAX_NUMBERS = 1 << 22
"""Log-probabilities of one answer."""


def score_parts(request: ScoreRequest) -> list[ScoreRequest]:
    """Requests that together ask the same; the prompt's own scores are asked with the first."""
    if not request.continuations:
        return [request]
    sizes = [len(item) for item in request.continuations]
    parts = [
        replace(request, continuations=request.continuations[begin:end])
        for begin, end in spans(sizes, numbers_each=1 + request.top_logprobs, is_per_token=True)
    ]
    return [parts[0], *(replace(part, prompt_logprobs=None) for part in parts[1:])]


def joined(results: Sequence[ScoreResult]) -> ScoreResult:
    """The answer to the whole; the first part says what was cached before."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    completion_tokens = sum(result.usage.completion_tokens for result in results)
    return replace(
        first,
        continuations=tuple(item for result in results for item in result.continuations),
        usage=replace(first.usage, completion_tokens=completion_tokens),
    )


def spans(sizes: Sequence[int], *, numbers_each: int, is_per_token: bool) -> Iterator[tuple[int, int]]:
    """Cut items of these sizes, in tokens, into runs within the bounds; an item alone may exceed them.

    `numbers_each`: log-probabilities that each item (or token) asks for.
    """
    begin, tokens, numbers = 0, 0, 0
    for place, size in enumerate(sizes):
        asked = numbers_each * size if is_per_token else numbers_each
        is_full = place - begin >= MAX_ITEMS or tokens + size > MAX_TOKENS or numbers + asked > MAX_NUMBERS
        if is_full and place > begin:
            yield begin, place
            begin, tokens, numbers = place, 0, 0
        tokens += size
        numbers += asked
    if begin < len(sizes):
        yield begin, len(sizes)


async def together(questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
