"""Many requests at once, but not all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dcmodel.loop import run

T = TypeVar("T")


def run_in_flight(job: Callable[[T], Awaitable[None]], items: Sequence[T], max_in_flight: int) -> None:
    """Run `job` on all items, begun in their order, `max_in_flight` at a time; wait for the end.

    The first error cancels the rest and is raised: an evaluation with holes is none.
    """
    run(_run(job, items, max_in_flight))


async def _run(job: Callable[[T], Awaitable[None]], items: Sequence[T], max_in_flight: int) -> None:
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await job(item)

    workers = [asyncio.ensure_future(work()) for _ in range(min(max_in_flight, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
