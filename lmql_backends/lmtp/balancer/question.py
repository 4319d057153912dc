"""Questions that a worker answers in one piece. They are pure: a lost one is asked again, elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dcmodel.errors import ConnectionLostError, DcModelError, OverloadedError
from lmql_backends.lmtp.balancer.admission import Ticket
from lmql_backends.lmtp.balancer.attempts import Attempts, is_loss
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.routing import Work
from lmql_backends.lmtp.balancer.worker import Flight

T = TypeVar("T")


class Question(Ticket):
    """One question on its way to an answer."""

    def __init__(self, pool: Pool, work: Work, attempts: Attempts | None = None) -> None:
        """`attempts`: the history so far, where the question is part of something longer."""
        self._pool = pool
        self.attempts = attempts or Attempts(pool.settings)
        self.excluded = self.attempts.excluded
        self.work = work
        self._placed: asyncio.Future[Flight] = pool.loop.create_future()

    def start(self, flight: Flight) -> None:
        if self._placed.done():  # the caller has just been cancelled
            flight.end()
        else:
            self._placed.set_result(flight)

    def refuse(self, error: DcModelError) -> None:
        if not self._placed.done():
            self._placed.set_exception(error)

    async def ask(self, call: Callable[[Flight], Awaitable[T]]) -> T:
        """The answer of the first worker that gives one. Raises what the question itself deserves."""
        budget, retries = self._pool.budget, 0
        budget.active += 1
        try:
            while True:
                flight = await self._place()
                try:
                    with flight:
                        answer = await call(flight)
                    flight.worker.last_sign = self._pool.loop.time()
                    return answer
                except OverloadedError as error:
                    retries += self._turned_away(flight, error)
                except DcModelError as error:
                    self._lost(flight, error)
                except ConnectionError as error:
                    self._lost(flight, ConnectionLostError(f"the worker is gone: {error!r}."))
                finally:
                    flight.end()
        finally:
            budget.active -= 1
            budget.give_back(retries)

    async def _place(self) -> Flight:
        self._placed = self._pool.loop.create_future()
        self._pool.admission.enter(self)
        try:
            return await self._placed
        except asyncio.CancelledError:
            self._pool.admission.withdraw(self)
            if self._placed.done() and not self._placed.cancelled():
                self._placed.result().end()
            raise

    def _turned_away(self, flight: Flight, error: OverloadedError) -> bool:
        """Rest the worker; whether a retry of the budget was used. Raises where there is none."""
        self._pool.admission.rest(flight.worker, error.retry_after or self._pool.settings.retry_after)
        if self.resume_by is not None:
            return False
        self.attempts.excluded.add(flight.worker)
        if not self._pool.budget.take():
            raise error
        return True

    def _lost(self, flight: Flight, error: DcModelError) -> None:
        """Go on after the loss of a worker; raises what ends the question."""
        if not is_loss(error):
            raise error
        self._pool.report(flight, error)
        final = self.attempts.lost(flight, error)
        if final is not None:
            raise final
        self.attempts.excluded.clear()
        self.resume_by = self._pool.loop.time() + self._pool.settings.resume_seconds
