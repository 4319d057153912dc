"""`Worker`: one server behind the balancer, its state and what runs on it; `Flight`: one request on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from weakref import WeakMethod

from dcmodel.errors import ConnectionLostError, DcModelError
from dcmodel.model import DcModel
from lmql_backends.lmtp.balancer.prefixes import PrefixIndex


class WorkerState(StrEnum):
    """Where a worker stands."""

    JOINING = "joining"
    """It is being connected to, again and again until that works or it is removed."""
    READY = "ready"
    SUSPECT = "suspect"
    """It gave no sign of life when asked: it gets nothing new until it does."""
    DRAINING = "draining"
    """It gets nothing new and leaves when what runs on it has ended."""
    GONE = "gone"


class Worker:
    """Written to by the pool and by its flights, in the pool's event loop."""

    def __init__(self, address: str, max_flights: int, max_blocks: int, on_free: Callable[[], None]) -> None:
        """`on_free`: called when something that ran here has ended."""
        self.address = address
        self.state = WorkerState.JOINING
        self.model: DcModel | None = None
        self.membership: Membership | None = None
        self.error = ""
        """What went wrong last, for people."""
        self.load = 0
        """Outstanding tokens."""
        self.flights: set[Flight] = set()
        self.prefixes = PrefixIndex(max_blocks)
        self.is_forgotten = False
        """It is not joined again."""
        self.failures = 0
        """Probes that failed since the last sign of life."""
        self.last_sign = 0.0
        """When it last gave a sign of life, by the loop's clock."""
        self.resting_until = 0.0
        """It said that it was overloaded: nothing new until then."""
        self.alarm = asyncio.Event()
        """Look at this worker now."""
        self.idle = asyncio.Event()
        self.idle.set()
        self.joined = 0
        """How often it has joined."""
        self.served = 0
        """Requests that were sent to it."""
        self.lost = 0
        """Requests that it lost."""
        self.last_chosen = 0
        self._max_flights = max_flights
        self._on_free = on_free

    @property
    def is_up(self) -> bool:
        """Whether it may take requests, now or soon."""
        return self.state in (WorkerState.READY, WorkerState.SUSPECT)

    @property
    def is_leaving(self) -> bool:
        """Whether it goes because somebody wants it to."""
        return self.state in (WorkerState.DRAINING, WorkerState.GONE)

    def accepts(self, now: float) -> bool:
        """Whether it takes a request now."""
        return (
            self.state is WorkerState.READY
            and now >= self.resting_until
            and len(self.flights) < self._max_flights
        )

    def suspect(self) -> None:
        """Nothing new for it until somebody has looked at it, which is to be now."""
        if self.is_up:
            self.state = WorkerState.SUSPECT
        self.alarm.set()

    def enter(self, model: DcModel, membership: Membership, now: float) -> None:
        """It has joined."""
        self.model = model
        self.membership = membership
        self.state = WorkerState.READY
        self.error = ""
        self.failures = 0
        self.last_sign = now
        self.resting_until = 0.0
        self.joined += 1
        self.alarm.clear()

    def leave(self, state: WorkerState, error: DcModelError, *, in_peace: bool = False) -> None:
        """It is no member now: everything that runs on it is interrupted with the error. `in_peace`: it has
        not failed."""
        self.state = state
        self.error = "" if in_peace else error.message
        self.model = self.membership = None
        self.prefixes.clear()
        for flight in list(self.flights):
            flight.was_moved = in_peace
            flight.interrupt(error)

    def fly(self, tokens: int, prefill: int = 0) -> Flight:
        """Something starts on it: so many tokens are to come, after so many of a prompt."""
        self.served += 1
        return Flight(self, tokens, prefill)

    def freed(self) -> None:
        """A flight has ended."""
        if not self.flights:
            self.idle.set()
        self._on_free()


class Membership:
    """What the connection to a worker tells of itself, from joining to the end; called in the pool's loop."""

    def __init__(self, worker: Worker) -> None:
        self.is_lost = False
        self.is_ending = False
        self._worker = worker

    def lost(self) -> None:
        """The connection is gone."""
        self.is_lost = True
        self._tell()

    def ending(self) -> None:
        """The worker takes nothing new and will end when what runs has ended."""
        self.is_ending = True
        self._tell()

    def _tell(self) -> None:
        if self._worker.membership is self:
            self._worker.suspect()


class Flight:
    """One request's stay on one worker.

    A wait for the worker stands in ``with flight:``. If the worker is given up meanwhile, the wait is
    cancelled and the reason raised in its place, without a task of its own for each wait (this is how
    `asyncio.timeout` works).
    """

    __slots__ = (
        *("_cancelling", "_interrupted", "_task"),
        *("lost", "model", "on_interrupt", "prefill", "tokens", "was_moved", "worker"),
    )

    def __init__(self, worker: Worker, tokens: int, prefill: int) -> None:
        assert worker.model is not None, "a worker without a model takes nothing"
        self.worker = worker
        self.model = worker.model
        self.tokens = tokens
        self.prefill = prefill
        self.lost: DcModelError | None = None
        """Why the worker was given up."""
        self.was_moved = False
        """The worker did not fail: it left."""
        self.on_interrupt: WeakMethod[Callable[[], None]] | None = None
        """Called then, where nothing waits."""
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._interrupted = False
        worker.flights.add(self)
        worker.idle.clear()
        worker.load += tokens + prefill

    def progress(self, now: float) -> None:
        """A token has come."""
        self.worker.last_sign = now
        done = self.prefill + (self.tokens > 0)
        self.prefill = 0
        self.tokens = max(self.tokens - 1, 0)
        self.worker.load -= done

    def end(self) -> None:
        """Nothing more is to come. May be called again."""
        if self in self.worker.flights:
            self.worker.flights.discard(self)
            self.worker.load -= self.tokens + self.prefill
            self.worker.freed()

    def interrupt(self, error: DcModelError) -> None:
        """The worker is given up."""
        self.lost = error
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()
        elif self.on_interrupt is not None and (tell := self.on_interrupt()) is not None:
            tell()

    def __enter__(self) -> None:
        if self.lost is not None:
            raise self.lost
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._interrupted or task is None:
            return
        self._interrupted = False
        was_ours = task.uncancel() <= self._cancelling
        if was_ours and kind is asyncio.CancelledError:
            assert self.lost is not None
            raise self.lost from error


def lost_worker(worker: Worker, why: str, *, retry_after: float | None = None) -> ConnectionLostError:
    """What the requests on a worker are told when it is given up."""
    return ConnectionLostError(f"worker {worker.address} {why}.", retry_after=retry_after)
