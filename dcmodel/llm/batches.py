"""A list of prompts in, a list of results out: all at once, with a progress bar."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

MAX_IN_FLIGHT = 1024
"""Requests handed to the model at a time; many more than it runs together, so that it never waits."""


async def run_batch(
    jobs: Sequence[Callable[[], Awaitable[T]]], *, progress: bool | None
) -> list[T | Exception]:
    """Run all jobs to their end; a result or an error for each, in order.

    `progress` None: a bar on stderr if that is a terminal and there is more than one job.
    """
    gate = asyncio.Semaphore(MAX_IN_FLIGHT)
    is_shown = progress if progress is not None else len(jobs) > 1 and sys.stderr.isatty()
    with tqdm(total=len(jobs), disable=not is_shown, unit="prompt", leave=False) as bar:

        async def run_one(job: Callable[[], Awaitable[T]]) -> T | Exception:
            async with gate:
                try:
                    return await job()
                except Exception as error:
                    return error
                finally:
                    bar.update()

        tasks = [asyncio.ensure_future(run_one(job)) for job in jobs]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


async def run_all(
    jobs: Sequence[Callable[[], Awaitable[T]]], *, is_batch: bool, progress: bool | None
) -> T | list[T]:
    """The result of the one job there is or, of a batch, those of all; raises the first error."""
    return raise_first(await run_batch(jobs, progress=progress)) if is_batch else await jobs[0]()


def raise_first(results: Sequence[T | Exception]) -> list[T]:
    """The results, or the first error among them."""
    values: list[T] = []
    for result in results:
        if isinstance(result, Exception):
            raise result
        values.append(result)
    return values
