"""`Runner`: a job's requests, one after the other and beside each other, until one of them succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from dcmodel.errors import OverloadedError
from lmql_backends.openai.transport.counters import Counters, Spent
from lmql_backends.openai.transport.failures import AttemptFailed
from lmql_backends.openai.transport.gate import Gate, Slot
from lmql_backends.openai.transport.hedging import Hedging
from lmql_backends.openai.transport.retry import Retries, RetryPolicy

T = TypeVar("T")
Attempt = Callable[[Slot, float], Awaitable[T]]
"""One request, in the seconds it is given. Raises `AttemptFailed`; reports headers to the gate itself."""


@dataclass(slots=True, kw_only=True)
class Job:
    """What a runner has to know of a job."""

    order: int
    deadline: float
    """On the event loop's clock."""
    tokens: int = 0
    """About how many it takes of the endpoint's allowance."""
    kind: Hashable = ""
    """Jobs of one kind take about the same time."""
    is_sampled: bool = True
    """Two answers to the same request may differ."""
    spent: Spent = field(default_factory=Spent)


class Runner:
    """Gate, retries and hedges of one endpoint, key and model. Lives in one event loop."""

    def __init__(
        self, gate: Gate, policy: RetryPolicy, hedging: Hedging, counters: Counters, rng: Random
    ) -> None:
        self.gate = gate
        self.policy = policy
        self._hedging = hedging
        self._counters = counters
        self._rng = rng
        self._loop = asyncio.get_running_loop()

    def retries(self, job: Job) -> Retries:
        """A fresh budget."""
        return Retries(self.policy, job.deadline, self._rng)

    async def run(
        self,
        job: Job,
        attempt: Attempt[T],
        *,
        retries: Retries | None = None,
        discard: Callable[[T], None] | None = None,
    ) -> T:
        """The first success. `discard` takes a success that nobody needs any more.

        Raises `AttemptFailed` where no further try is of use, and `OverloadedError` where the gate has no
        place before the deadline.
        """
        retries = retries or self.retries(job)
        while True:
            try:
                return await self._once_or_more(job, attempt, retries, discard)
            except AttemptFailed as failure:
                await self.after(failure, job, retries)

    async def after(self, failure: AttemptFailed, job: Job, retries: Retries) -> None:
        """Wait as long as it takes after this failure; raise it where there is no use in another try."""
        wait = retries.wait(failure, self._loop.time(), has_answered=self.gate.control.has_answered)
        if wait is None:
            raise failure
        job.spent.retries += 1
        self._counters.retries += 1
        if wait > 0.0:
            await asyncio.sleep(wait)

    # -- inside ------------------------------------------------------------------------------------

    async def _once_or_more(
        self, job: Job, attempt: Attempt[T], retries: Retries, discard: Callable[[T], None] | None
    ) -> T:
        slot = await self.gate.enter(job.order, job.deadline, job.tokens)
        seconds = retries.seconds(self._loop.time())
        if self._hedging.settings.budget <= 0.0:
            return await self._once(slot, job, attempt, seconds)
        tasks = {self._spawn(slot, job, attempt, seconds)}
        try:
            return await self._first_of(tasks, job, attempt, seconds)
        finally:
            await _drop(tasks, discard)

    async def _first_of(
        self, tasks: set[asyncio.Task[T]], job: Job, attempt: Attempt[T], seconds: float
    ) -> T:
        """The first success; adds a task to `tasks` for each hedge, and takes out those whose end is used."""
        hedges = 0
        began = self._loop.time()
        while True:
            may_hedge = hedges < self._hedging.settings.most
            delay = self._hedging.delay(job.kind, is_sampled=job.is_sampled) if may_hedge else None
            waited: list[asyncio.Future[Any]] = [*tasks]
            if may_hedge and delay is None:
                waited.append(self._hedging.known(job.kind))
            late = None if delay is None else max(began + delay - self._loop.time(), 0.0)
            done, _ = await asyncio.wait(waited, timeout=late, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in tasks if task in done]:
                failure = task.exception()
                if failure is None:
                    tasks.discard(task)
                    return task.result()
                if len(tasks) == 1 or not _is_bearable(failure):
                    raise failure
                tasks.discard(task)
            if not done and delay is not None:
                began = self._loop.time()
                if self._hedging.take():
                    hedges += 1
                    job.spent.hedges += 1
                    self._counters.hedges += 1
                    tasks.add(self._loop.create_task(self._hedge(job, attempt, seconds)))

    def _spawn(self, slot: Slot, job: Job, attempt: Attempt[T], seconds: float) -> asyncio.Task[T]:
        task = self._loop.create_task(self._once(slot, job, attempt, seconds))
        # A task that is cancelled before its first step never runs its own `finally`.
        task.add_done_callback(lambda _: None if slot.is_kept else slot.leave())
        return task

    async def _hedge(self, job: Job, attempt: Attempt[T], seconds: float) -> T:
        slot = await self.gate.enter(job.order, job.deadline, job.tokens)
        return await self._once(slot, job, attempt, seconds)

    async def _once(self, slot: Slot, job: Job, attempt: Attempt[T], seconds: float) -> T:
        began = self._loop.time()
        self._hedging.began()
        job.spent.requests += 1
        self._counters.requests += 1
        try:
            result = await attempt(slot, seconds)
        except AttemptFailed as failure:
            self.gate.failed(failure)
            raise
        else:
            self.gate.succeeded()
            self._hedging.took(job.kind, self._loop.time() - began)
            return result
        finally:
            if not slot.is_kept:
                slot.leave()


def _is_bearable(failure: BaseException) -> bool:
    """Whether another request of the same job may still go well."""
    if isinstance(failure, AttemptFailed):
        return not failure.is_permanent
    return isinstance(failure, OverloadedError)


async def _drop(tasks: set[asyncio.Task[T]], discard: Callable[[T], None] | None) -> None:
    """Cancel what still runs, wait for its end, and give away what it brought after all."""
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None and discard is not None:
            discard(task.result())
