"""`ThreadRunner`: a runner with a thread of its own, told what is wanted through an inbox."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from dcmodel.errors import ModelClosedError, OverloadedError
from dcmodel.scheduling.jobs import Job
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Sequence

T = TypeVar("T")
MAX_WAITING = 100_000

Item = list[Sequence] | Job[Any] | None
"""What was submitted together arrives together; None: something was cancelled, or the runner closes."""


class ThreadRunner(SequenceRunner):
    """Its thread reads `_inbox` between two steps, and ends once `_closing` is set."""

    def __init__(self, *, max_waiting: int, name: str) -> None:
        """`name`: the thread's. It is started by `_start`."""
        self._inbox: SimpleQueue[Item] = SimpleQueue()
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences. Raises `ModelClosedError` or `OverloadedError`."""
        batch = list(sequences)
        with self._lock:
            self._check_open()
            waiting = self._count_waiting()
            if waiting + len(batch) > self._max_waiting:
                raise OverloadedError(
                    f"{waiting} requests are waiting, the limit is {self._max_waiting}.",
                    remedy="Try again later.",
                )
            self._inbox.put(batch)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence within one step; nothing happens to one that has ended."""
        sequence.cancelled = True
        self._inbox.put(None)

    def between_steps(self, function: Callable[[], T]) -> Future[T]:
        """Have a function called on the runner's thread. Raises `ModelClosedError`, as the future may."""
        job = Job(function)
        with self._lock:
            self._check_open()
            self._inbox.put(job)
        return job.future

    def forget_adapter(self, adapter: int) -> None:
        """The last sequence with this adapter is gone. A finalizer may call it anywhere: it takes no lock."""
        self._inbox.put(Job(partial(self._forget_adapter, adapter)))

    def close(self) -> None:
        """Fail whatever is unfinished with `ModelClosedError` and release the engine. Waits for the step."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise ModelClosedError("the model is closed.", remedy="Make a new one.")

    def _arrived(self) -> Iterator[Item]:
        """What lies in the inbox now."""
        while True:
            try:
                yield self._inbox.get_nowait()
            except Empty:
                return

    @abstractmethod
    def _run(self) -> None:
        """The thread's work, until `_closing`; then everything unfinished has failed."""

    @abstractmethod
    def _count_waiting(self) -> int:
        """How many sequences wait, of those that were taken in."""

    @abstractmethod
    def _forget_adapter(self, adapter: int) -> None:
        """On the runner's thread."""
