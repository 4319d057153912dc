"""Fills mask rows on a few threads while the forward runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import MaskRow, Matcher
from dcmodel.errors import ConstraintRuntimeError, DcModelError
from dcmodel.mask import allocate_rows

MAX_WORKERS = 4
# Fewer masks than this are not worth a hand-over to another thread.
MIN_CHUNK = 8
# Callers' functions may wait for something: each then has a thread of its own.
MAX_WAITING = 32
# Seconds of work below which no thread is asked: it would cost half as much again, on cores that the forward
# needs as well. It is done when the masks are wanted; an accelerator still computes then.
HAND_OVER = 800e-6
# Seconds of masks that are worth another thread.
WORK_OF_A_THREAD = 2e-3
# A caller's function that takes longer than this is not put in line behind another.
SLOW_FUNCTION = 1e-3
# What is expected of the next step falls by this factor from the slowest one.
FORGETTING = 0.9

Failures = dict[int, DcModelError]
Job = tuple[int, Matcher]
Result = tuple[Failures, int, float]
"""What went wrong, how many rows there were, and the seconds that they took."""


class MaskFiller:
    """One reused buffer of rows; `start` and `finish` come in pairs, from one thread."""

    def __init__(
        self,
        vocab_size: int,
        *,
        workers: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`workers`: threads for masks; as many as there are cores, at most 4.

        `clock` and `cpu_clock` (of the calling thread) give seconds.
        """
        self._vocab_size = vocab_size
        self._rows = allocate_rows(0, vocab_size)
        # The same views at every step: a matcher knows its row again.
        self._views: list[MaskRow] = []
        self._workers = workers or min(MAX_WORKERS, _cores())
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="dcmodel-masks")
        self._waiting_pool = ThreadPoolExecutor(MAX_WAITING, thread_name_prefix="dcmodel-mask-functions")
        self._pending: list[tuple[Future[Result], list[Job]]] = []
        self._pending_functions: list[Future[Result]] = []
        self._postponed: list[Job] = []
        # Seconds that a mask, and the slowest function, are expected to take.
        self._per_mask = np.inf
        self._per_function = np.inf

    def start(self, matchers: Seq[Matcher | None]) -> None:
        """Begin to fill row i from ``matchers[i]``; rows of None are left as they are."""
        if len(matchers) > len(self._rows):
            self._rows = allocate_rows(max(len(matchers), 2 * len(self._rows)), self._vocab_size)
            self._views = list(self._rows)
        jobs: list[Job] = []
        functions: list[Job] = []
        for row, matcher in enumerate(matchers):
            if matcher is not None:
                (functions if matcher.may_wait else jobs).append((row, matcher))
        if functions:
            size = 1 if self._per_function > SLOW_FUNCTION else MIN_CHUNK
            for begin in range(0, len(functions), size):
                part = functions[begin : begin + size]
                self._pending_functions.append(self._waiting_pool.submit(self._fill, part, self._clock))
        if jobs and self._per_mask * len(jobs) <= HAND_OVER:
            self._postponed = jobs
            return
        # Threads that take turns with the interpreter's lock cost more than little work saves.
        threads = self._workers
        if self._per_mask < np.inf:
            threads = min(threads, 1 + int(self._per_mask * len(jobs) / WORK_OF_A_THREAD))
        for chunk in chunks_of(jobs, threads):
            self._pending.append((self._pool.submit(self._fill, chunk, self._cpu_clock), chunk))

    def finish(self, count: int) -> tuple[NDArray[np.int32], Failures]:
        """The first `count` rows, and what went wrong by row number. Valid until the next `start`.

        With a `count` of 0 nothing is wanted any more: what has not begun is dropped.
        """
        pending, self._pending = self._pending, []
        functions, self._pending_functions = self._pending_functions, []
        postponed, self._postponed = self._postponed, []
        failures: Failures = {}
        results = [self._fill(postponed, self._cpu_clock)] if postponed and count else []
        # What no thread has begun yet is done here: it would have to be waited for.
        late = [chunk for future, chunk in reversed(pending) if future.cancel() and count]
        results += [self._fill(chunk, self._cpu_clock) for chunk in late]
        results += [future.result() for future, _ in pending if not future.cancelled()]
        if masks := sum(done for _, done, _ in results):
            self._per_mask = max(sum(spent for *_, spent in results) / masks, _less(self._per_mask))
        slow = [future.result() for future in functions]
        if slow:
            self._per_function = max(*(spent / done for _, done, spent in slow), _less(self._per_function))
        for failed, *_ in (*results, *slow):
            failures.update(failed)
        return self._rows[:count], failures

    def close(self) -> None:
        """Wait for what runs; the threads end."""
        self._pool.shutdown(wait=True)
        self._waiting_pool.shutdown(wait=True)

    def _fill(self, jobs: Seq[Job], clock: Callable[[], float]) -> Result:
        failures: Failures = {}
        begin = clock()
        for row, matcher in jobs:
            try:
                matcher.fill_mask(self._views[row])
            except DcModelError as error:
                failures[row] = error
            except Exception as error:  # a plug-in's matcher may raise anything
                failures[row] = ConstraintRuntimeError(f"the constraint's mask failed: {error!r}.")
        return failures, len(jobs), clock() - begin


def chunks_of(jobs: Seq[Job], workers: int) -> list[list[Job]]:
    """Parts of about equal length for as many threads; matchers that wait for one another in one part.

    Copies of one engine share its lock (`lock_key`): on two threads they would only take turns.
    """
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job[1].lock_key or job[0], []).append(job)
    if workers == 1:
        return [list(jobs)] if jobs else []
    size = max(MIN_CHUNK, -(-len(jobs) // workers))
    chunks: list[list[Job]] = []
    for group in sorted(groups.values(), key=len, reverse=True):
        if chunks and len(chunks[-1]) + len(group) <= size:
            chunks[-1] += group
        else:
            chunks.append(group)
    return chunks


def _less(expected: float) -> float:
    return FORGETTING * expected if expected < np.inf else 0.0


def _cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
