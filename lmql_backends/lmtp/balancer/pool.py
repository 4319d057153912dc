"""`Pool`: the workers of a balancer, who join, are watched, are given up, come back and leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable

from dcmodel.errors import ConnectionLostError, DcModelError, ModelClosedError
from dcmodel.model import DcModel
from lmql_backends.lmtp.balancer.admission import Admission
from lmql_backends.lmtp.balancer.attempts import RetryBudget, is_loss
from lmql_backends.lmtp.balancer.members import Identity, check_same, identity_of
from lmql_backends.lmtp.balancer.mounting import Mountings
from lmql_backends.lmtp.balancer.routing import Router
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.worker import (
    Flight,
    Membership,
    Worker,
    WorkerState,
    lost_worker,
)

log = logging.getLogger(__name__)

Connect = Callable[[str, Membership], Awaitable[DcModel]]
"""Opens the model at an address, and tells the membership what happens to the connection. Raises
`DcModelError` or `OSError`."""
Probe = Callable[[DcModel], Awaitable[object]]
"""A question that a living worker answers at once."""
CLOSE_SECONDS = 2.0
"""How long the other end may take to say goodbye."""


class Pool:
    """Lives in the event loop that makes it; time is the loop's, chance is `rng`."""

    def __init__(
        self,
        connect: Connect,
        probe: Probe,
        *,
        settings: BalancerSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.settings = settings or BalancerSettings()
        self.router = Router(self.settings)
        self.budget = RetryBudget(self.settings.retry_share, self.settings.min_retries)
        self.loop = asyncio.get_running_loop()
        self._connect = connect
        self._probe = probe
        self._rng = rng or random.Random()
        self._members: dict[str, Worker] = {}
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._identity: Identity | None = None
        self._first: asyncio.Future[DcModel] = self.loop.create_future()
        self._is_closed = False
        self._news = asyncio.Event()
        self.mountings = Mountings(self._models)
        self.admission = Admission(self._members.values(), self.router, self.settings)

    @property
    def workers(self) -> tuple[Worker, ...]:
        return tuple(self._members.values())

    def _models(self) -> list[DcModel]:
        return [worker.model for worker in self.workers if worker.model is not None]

    async def first(self) -> DcModel:
        """The model of the first worker that has joined; waits for it."""
        return await asyncio.shield(self._first)

    async def wait(self, until: Callable[[], bool]) -> None:
        """Until something is so; looks again whenever a worker joined, could not join, or left."""
        while not until():
            await self._news.wait()

    def add(self, address: str) -> Worker:
        """A worker to be joined; nothing happens if it is one already."""
        if self._is_closed:
            raise ModelClosedError("the balancer was closed.")
        if (known := self._members.get(address)) is not None and not (known.is_leaving or known.is_forgotten):
            return known
        settings = self.settings
        worker = Worker(address, settings.streams_per_worker, settings.max_blocks, self.admission.pump)
        self._members[address] = worker
        task = asyncio.create_task(self._look_after(worker), name=f"worker {address}")
        self._tasks[worker] = task
        task.add_done_callback(self._tell_of_defects)
        return worker

    async def remove(self, address: str) -> bool:
        """Let a worker go: nothing new, what runs may end (within `drain_seconds`; then it is moved).
        Returns whether there was one; waits until it has left."""
        worker = self._members.get(address)
        if worker is None or worker not in self._tasks:
            return False
        task = self._tasks[worker]
        if worker.state is WorkerState.JOINING:
            worker.state = WorkerState.GONE
            task.cancel()
        elif worker.state is not WorkerState.GONE:
            worker.state = WorkerState.DRAINING
            worker.alarm.set()
            self.admission.pump()
        await asyncio.wait([task])
        return True

    def forget(self, address: str) -> None:
        """A worker is gone for good: what runs on it goes on elsewhere at once."""
        worker = self._members.get(address)
        if worker is None or worker.state is WorkerState.GONE:
            return
        if worker.membership is not None:
            worker.membership.lost()
        worker.is_forgotten = True
        if worker.state is WorkerState.JOINING:
            self._tasks[worker].cancel()

    def report(self, flight: Flight, error: BaseException) -> None:
        """A request has lost its worker: nothing new for that one until it has answered a question."""
        flight.worker.lost += 1
        if flight.worker.model is flight.model:
            flight.worker.error = str(error)
            flight.worker.suspect()

    async def aclose(self) -> None:
        """Everything that runs fails with `ModelClosedError`."""
        self._is_closed = True
        error = ModelClosedError("the balancer was closed.")
        self.admission.close(error)
        for worker in self.workers:
            for flight in list(worker.flights):
                flight.interrupt(error)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if not self._first.done():
            self._first.cancel()

    # -- the life of one worker --------------------------------------------------------------------

    async def _look_after(self, worker: Worker) -> None:
        settings = self.settings
        most = settings.pause_seconds
        try:
            while not worker.is_leaving and not worker.is_forgotten:
                model, membership = await self._join(worker)
                joined = self.loop.time()
                try:
                    await self._member(worker, model, membership)
                finally:
                    await self._close(worker, model)
                if self.loop.time() - joined > settings.probe_seconds:
                    most = settings.pause_seconds
                    continue  # it may be back already
                await asyncio.sleep(self._rng.uniform(0, most))
                most = min(2 * most, settings.max_pause_seconds)
        finally:
            worker.state = WorkerState.GONE
            del self._tasks[worker]
            if self._members.get(worker.address) is worker:
                del self._members[worker.address]
            self._changed()

    def _changed(self) -> None:
        """Who waits for a worker, or for news of one, looks again."""
        self.admission.pump()
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _tell_of_defects(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler(
                {"message": f"{task.get_name()} is not looked after any more", "exception": error}
            )

    async def _join(self, worker: Worker) -> tuple[DcModel, Membership]:
        """Connect until it works: pauses grow, and are drawn anew each time, so that many do not come at
        once."""
        most = self.settings.pause_seconds
        while True:
            membership = Membership(worker)
            try:
                async with asyncio.timeout(self.settings.connect_seconds):
                    model = await self._connect(worker.address, membership)
            except (DcModelError, OSError) as error:  # TimeoutError is an OSError
                worker.error = str(error) or f"no answer within {self.settings.connect_seconds:g} s"
            else:
                if await self._is_accepted(worker, model):
                    return model, membership
                most = self.settings.max_pause_seconds  # it will hardly change soon
            log.info("worker %s cannot be joined yet: %s", worker.address, worker.error)
            self._changed()
            await asyncio.sleep(self._rng.uniform(0, most))
            most = min(2 * most, self.settings.max_pause_seconds)

    async def _is_accepted(self, worker: Worker, model: DcModel) -> bool:
        found = identity_of(model)
        try:
            check_same(self._identity or found, found, worker.address)
            if self._identity is None:
                self.mountings.adopt(model)
            self._identity = found
            await self.mountings.equip(model)  # nothing is awaited from here until it is a member
        except (DcModelError, OSError) as error:
            worker.error = str(error)
            await self._close(worker, model)
            return False
        except BaseException:
            await self._close(worker, model)
            raise
        return True

    async def _member(self, worker: Worker, model: DcModel, membership: Membership) -> None:
        """From joining to the end of the membership."""
        worker.enter(model, membership, self.loop.time())
        log.info("worker %s has joined", worker.address)
        if not self._first.done():
            self._first.set_result(model)
        self._changed()
        why = None
        try:
            why = await self._watch(worker, model, membership)
        finally:
            state = WorkerState.GONE if worker.is_leaving else WorkerState.JOINING
            error = lost_worker(worker, why or "has left")
            worker.leave(state, error, in_peace=why is None)
            self._changed()
            log.log(logging.WARNING if why else logging.INFO, "%s", error.message)

    async def _watch(self, worker: Worker, model: DcModel, membership: Membership) -> str | None:
        """Ask whether it lives, whenever it was silent, until it does not. Returns what went wrong, or None
        where it left as it should."""
        while True:
            if not worker.failures and not membership.is_lost and not membership.is_ending:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.probe_seconds):
                        await worker.alarm.wait()
            worker.alarm.clear()
            if worker.is_leaving or (membership.is_ending and not membership.is_lost):
                await self._drain(worker)
                return None
            if membership.is_lost:
                return "has ended the connection"
            try:
                lives = await self._ask(worker, model)
            except ConnectionLostError as error:
                return f"is gone: {error}"
            if worker.is_leaving:
                continue
            if lives:
                self._is_well(worker)
                continue
            worker.failures += 1
            worker.state = WorkerState.SUSPECT
            if worker.failures >= self.settings.failed_probes:
                return f"gave no sign of life {worker.failures} times"

    def _is_well(self, worker: Worker) -> None:
        worker.failures = 0
        if worker.state is WorkerState.SUSPECT:
            worker.state = WorkerState.READY
            self.admission.pump()

    async def _ask(self, worker: Worker, model: DcModel) -> bool:
        """One probe: whether there was a sign of life, which every token that arrives meanwhile is, too.
        Raises `ConnectionLostError` where nobody is there."""
        asked = self.loop.time()
        try:
            async with asyncio.timeout(self.settings.probe_deadline):
                await self._probe(model)
        except TimeoutError:
            return worker.last_sign > asked
        except (DcModelError, OSError) as error:
            if is_loss(error):
                raise ConnectionLostError(str(error)) from error
            log.debug("worker %s answered a probe with %r", worker.address, error)
        worker.last_sign = self.loop.time()
        return True

    async def _drain(self, worker: Worker) -> None:
        """What runs may end, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds):
                await worker.idle.wait()

    async def _close(self, worker: Worker, model: DcModel) -> None:
        """Let go of a connection, also where nobody is at its other end."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await model.aclose()
        except (DcModelError, OSError) as error:
            log.info("closing the connection to worker %s: %r", worker.address, error)
