"""`Runner`: a job's requests, one after the other and beside each other, until one of them succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from lmql_backends.openai.transport.counters import Counters
from lmql_backends.openai.transport.failures import AttemptFailed, Kind
from lmql_backends.openai.transport.gate import Gate, Slot
from lmql_backends.openai.transport.hedging import Hedging
from lmql_backends.openai.transport.job import Job
from lmql_backends.openai.transport.racing import Race
from lmql_backends.openai.transport.retry import Retries, RetryPolicy

T = TypeVar("T")
Attempt = Callable[[Slot, float], Awaitable[T]]
"""One request, in the seconds it is given. Raises `AttemptFailed`; reports headers to the gate itself."""


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
        job.failures += failure.kind is not Kind.RATE_LIMITED
        job.spent.retries += 1
        self._counters.retries += 1
        if wait > 0.0:
            await asyncio.sleep(wait)

    # -- inside ------------------------------------------------------------------------------------

    async def _once_or_more(
        self, job: Job, attempt: Attempt[T], retries: Retries, discard: Callable[[T], None] | None
    ) -> T:
        slot = await self.gate.enter(job.rank, job.deadline, job.tokens)
        seconds = retries.seconds(self._loop.time())
        if self._hedging.settings.budget <= 0.0:
            return await self._once(slot, job, attempt, seconds)
        race = Race(self._hedging, job, lambda: self._hedge(job, attempt, seconds), discard)
        return await race.run(self._once(slot, job, attempt, seconds))

    async def _hedge(self, job: Job, attempt: Attempt[T], seconds: float) -> T:
        job.spent.hedges += 1
        self._counters.hedges += 1
        slot = await self.gate.enter(job.rank, job.deadline, job.tokens)
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
