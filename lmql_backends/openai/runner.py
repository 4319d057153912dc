"""`AskRunner`: runs sequences by asking an endpoint. Each sequence is a task in the loop of its caller."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable

from dcmodel.errors import DcModelError, EngineError, ModelClosedError
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence, Status

logger = logging.getLogger(__name__)

Work = Callable[[Sequence], Awaitable[None]]


class AskRunner(SequenceRunner):
    """`work` does what is to be done for one sequence; its errors become the sequence's."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._tasks: dict[Sequence, asyncio.Task[None]] = {}
        self._is_closed = False

    def submit(self, sequences: Iterable[Sequence]) -> None:
        """In the loop of whoever waits for them."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_closed:
                raise ModelClosedError("the model is closed.", remedy="Make a new one.")
            for sequence in sequences:
                sequence.status = Status.RUNNING
                task = loop.create_task(self._run(sequence))
                self._tasks[sequence] = task
                # Also of a task that was cancelled before its first step.
                task.add_done_callback(functools.partial(self._done, sequence))

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True
        with self._lock:
            task = self._tasks.get(sequence)
        if task is not None:
            _cancel(task)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            tasks = list(self._tasks.values())
        for task in tasks:
            _cancel(task)

    async def join(self) -> None:
        """After `close`: wait for what runs in this loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            tasks = [task for task in self._tasks.values() if task.get_loop() is loop]
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, sequence: Sequence) -> None:
        try:
            await self._work(sequence)
        except DcModelError as error:
            sequence.error = error
        except Exception as error:  # a defect of ours must not leave anybody waiting
            logger.exception("a request to an endpoint failed")
            sequence.error = EngineError(f"the request failed: {error!r}.", remedy="Please report this.")

    def _done(self, sequence: Sequence, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._tasks.pop(sequence, None)
        if task.cancelled() and not sequence.cancelled:
            sequence.error = ModelClosedError("the model was closed.")
        sequence.status = Status.FINISHED
        if sequence.notify is not None:
            sequence.notify()


def _cancel(task: asyncio.Task[None]) -> None:
    loop = task.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
