"""`Race`: one request, and others beside it while it is late; the first success wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from dcmodel.errors import OverloadedError
from lmql_backends.openai.transport.failures import AttemptFailed
from lmql_backends.openai.transport.hedging import Hedging
from lmql_backends.openai.transport.job import Job

T = TypeVar("T")


class Race(Generic[T]):
    """The first request runs in the caller's own task: while it is not late it costs no more than a timer.

    A hedge that wins interrupts it the way `asyncio.timeout` does: it cancels the task and takes that back.
    """

    def __init__(
        self,
        hedging: Hedging,
        job: Job,
        hedge: Callable[[], Coroutine[Any, Any, T]],
        discard: Callable[[T], None] | None,
    ) -> None:
        """`hedge` is one more request. `discard` takes a success that came too late."""
        self._hedging = hedging
        self._job = job
        self._hedge = hedge
        self._discard = discard
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for_times = False
        self._hedges: list[asyncio.Task[T]] = []
        self._winner: asyncio.Task[T] | None = None
        self._first: asyncio.Task[Any] | None = None
        """The task that runs the first request, as long as a winner may interrupt it."""

    async def run(self, first: Awaitable[T]) -> T:
        """What the first to succeed gives. Raises a failure that nothing else can make good."""
        try:
            result = await self._first_success(first)
        except BaseException:
            await self._stop()
            raise
        try:
            await self._stop()
        except BaseException:
            if self._discard is not None:
                self._discard(result)
            raise
        return result

    # -- inside ------------------------------------------------------------------------------------

    async def _first_success(self, first: Awaitable[T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._first = task
        self._arm()
        try:
            result = await first
        except asyncio.CancelledError:
            # Was it the winner's doing, and nobody else's?
            if self._winner is None or task.uncancel() > cancelling:
                raise
            return self._take(self._winner)
        except AttemptFailed as failure:
            self._disarm()
            if failure.is_permanent or not self._hedges:
                raise
            return await self._others(failure)
        finally:
            self._disarm()
        return result

    def _take(self, hedge: asyncio.Task[T]) -> T:
        self._hedges.remove(hedge)
        return hedge.result()

    def _disarm(self) -> None:
        """No more hedges, and no interruption."""
        self._first = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waits_for_times:
            self._waits_for_times = False
            self._hedging.known(self._job.kind).remove_done_callback(self._times_are_known)

    def _arm(self) -> None:
        """Look again when the first request, or the latest hedge, is late."""
        delay = self._hedging.delay(self._job.kind, is_sampled=self._job.is_sampled)
        if delay is None:
            self._waits_for_times = True
            self._hedging.known(self._job.kind).add_done_callback(self._times_are_known)
        else:
            self._timer = self._loop.call_at(self._began + delay, self._late)

    def _times_are_known(self, _: asyncio.Future[None]) -> None:
        self._waits_for_times = False
        if self._first is not None:
            self._arm()

    def _late(self) -> None:
        self._began = self._loop.time()
        if self._hedging.take():
            hedge = self._loop.create_task(self._hedge())
            hedge.add_done_callback(self._hedge_ended)
            self._hedges.append(hedge)
        if len(self._hedges) < self._hedging.settings.most:
            self._arm()

    def _hedge_ended(self, hedge: asyncio.Task[T]) -> None:
        if hedge.cancelled() or hedge.exception() is not None:
            return
        if self._first is not None and self._winner is None:
            self._winner = hedge
            self._first.cancel()

    async def _others(self, failure: AttemptFailed) -> T:
        """The first success among the hedges, or the failure of the first request."""
        running = set(self._hedges)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for hedge in done:
                error = hedge.exception()
                if error is None:
                    return self._take(hedge)
                if not isinstance(error, AttemptFailed | OverloadedError):
                    raise error
        raise failure

    async def _stop(self) -> None:
        """Cancel what still runs, wait for its end, and give away what it brought after all."""
        if not self._hedges:
            return
        for hedge in self._hedges:
            hedge.cancel()
        await asyncio.wait(self._hedges)
        for hedge in self._hedges:
            is_success = not hedge.cancelled() and hedge.exception() is None
            if is_success and self._discard is not None:
                self._discard(hedge.result())
