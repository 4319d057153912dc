"""Who may start now, who waits, and who is told to come again later."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection

from dcmodel.errors import ConnectionLostError, DcModelError, OverloadedError
from lmql_backends.lmtp.balancer.routing import Router, Work
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.worker import Flight, Worker


class Ticket(ABC):
    """A request that wants a worker. Exactly one of `start` and `refuse` is called for each `enter`,
    unless it is withdrawn; perhaps before `enter` returns."""

    work: Work
    resume_by: float | None = None
    """When set, it lost its worker: it comes before new requests, and waits (until that time of the loop's
    clock) where they would be refused."""
    excluded: Collection[Worker] = ()

    @abstractmethod
    def start(self, flight: Flight) -> None:
        """It has its worker."""

    @abstractmethod
    def refuse(self, error: DcModelError) -> None:
        """It gets none."""


class Admission:
    """A bounded queue before all workers."""

    def __init__(self, workers: Collection[Worker], router: Router, settings: BalancerSettings) -> None:
        """`workers`: a live view."""
        self._workers = workers
        self._router = router
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._resuming: dict[Ticket, asyncio.TimerHandle] = {}
        self._waiting: dict[Ticket, None] = {}
        self._closed: DcModelError | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._is_looking = False
        self._must_look = False

    @property
    def num_waiting(self) -> int:
        return len(self._resuming) + len(self._waiting)

    def enter(self, ticket: Ticket) -> None:
        """Start it now, let it wait, or refuse it."""
        if self._closed is not None:
            ticket.refuse(self._closed)
        elif self.num_waiting if ticket.resume_by is None else self._resuming:
            self._wait(ticket)
            self.pump()
        elif not self._start(ticket):
            self._wait(ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """It does not want a worker any more."""
        self._waiting.pop(ticket, None)
        if (timer := self._resuming.pop(ticket, None)) is not None:
            timer.cancel()

    def pump(self) -> None:
        """A worker has room, has come, or has gone: see who can start."""
        self._must_look = True
        if self._is_looking:
            return  # a request that was just started has ended already
        self._is_looking = True
        try:
            while self._must_look:
                self._must_look = False
                self._look()
        finally:
            self._is_looking = False

    def rest(self, worker: Worker, seconds: float) -> None:
        """It said that it was overloaded: nothing new for so long."""
        worker.resting_until = max(worker.resting_until, self._loop.time() + seconds)
        self._wake_at(worker.resting_until)

    def close(self, error: DcModelError) -> None:
        """Refuse everything from now on."""
        self._closed = error
        if self._rest is not None:
            self._rest.cancel()
        for ticket in [*self._resuming, *self._waiting]:
            self.withdraw(ticket)
            ticket.refuse(error)

    # -- inside ------------------------------------------------------------------------------------

    def _look(self) -> None:
        if not self.num_waiting:
            return
        if not any(worker.is_up for worker in self._workers):
            for ticket in list(self._waiting):
                self.withdraw(ticket)
                ticket.refuse(self._unavailable())
            return
        for ticket in [*self._resuming, *self._waiting]:
            if not self._any_accepts():
                return
            if self._is_waiting(ticket):
                self._start(ticket)

    def _start(self, ticket: Ticket) -> bool:
        now = self._loop.time()
        worker = self._router.choose(self._workers, ticket.work, now, ticket.excluded)
        if worker is None:
            return False
        self.withdraw(ticket)
        ticket.start(self._router.launch(worker, ticket.work))
        return True

    def _wait(self, ticket: Ticket) -> None:
        if ticket.resume_by is not None:
            self._resuming[ticket] = self._loop.call_at(ticket.resume_by, self._give_up, ticket)
        elif (error := self._refusal(ticket)) is not None:
            ticket.refuse(error)
        else:
            self._waiting[ticket] = None

    def _refusal(self, ticket: Ticket) -> DcModelError | None:
        """Why a new request may not even wait."""
        now = self._loop.time()
        candidates = [worker for worker in self._workers if worker.is_up and worker not in ticket.excluded]
        if not candidates:
            return self._unavailable()
        if all(worker.resting_until > now for worker in candidates):
            soonest = min(worker.resting_until for worker in candidates) - now
            return OverloadedError(
                "all workers are overloaded.", remedy="Try again later.", retry_after=round(soonest, 3)
            )
        if len(self._waiting) >= self._settings.max_waiting:
            return OverloadedError(
                f"{len(self._waiting)} requests are waiting for a worker already.",
                remedy="Try again later, or add workers.",
                retry_after=self._settings.retry_after,
            )
        return None

    def _give_up(self, ticket: Ticket) -> None:
        self.withdraw(ticket)
        ticket.refuse(
            ConnectionLostError(
                f"the worker was lost, and no other took the request over within "
                f"{self._settings.resume_seconds:g} s.",
                remedy="Try again later.",
                retry_after=self._settings.retry_after,
            )
        )

    def _unavailable(self) -> OverloadedError:
        return OverloadedError(
            "no worker is available.", remedy="Try again later.", retry_after=self._settings.retry_after
        )

    def _is_waiting(self, ticket: Ticket) -> bool:
        return ticket in self._waiting or ticket in self._resuming

    def _any_accepts(self) -> bool:
        now = self._loop.time()
        return any(worker.accepts(now) for worker in self._workers)

    def _wake_at(self, when: float) -> None:
        if self._rest is not None:
            if self._rest.when() <= when and not self._rest.cancelled():
                return
            self._rest.cancel()
        self._rest = self._loop.call_at(when, self._rested)

    def _rested(self) -> None:
        self._rest = None
        self.pump()
        now = self._loop.time()
        resting = [worker.resting_until for worker in self._workers if worker.resting_until > now]
        if resting:
            self._wake_at(min(resting))
