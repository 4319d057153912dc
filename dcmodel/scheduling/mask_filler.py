"""Fills mask rows on a few threads while the forward runs."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import Matcher
from dcmodel.errors import ConstraintRuntimeError, DcModelError
from dcmodel.mask import allocate_rows

MAX_WORKERS = 4
# Fewer masks than this are not worth a hand-over to another thread.
MIN_CHUNK = 8

Failures = dict[int, DcModelError]


class MaskFiller:
    """One reused buffer of rows; `start` and `finish` come in pairs, from one thread."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows = allocate_rows(0, vocab_size)
        self._workers = max(1, min(MAX_WORKERS, (os.cpu_count() or 1)))
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="dcmodel-masks")
        self._pending: list[Future[Failures]] = []

    def start(self, matchers: Seq[Matcher | None]) -> None:
        """Begin to fill row i from ``matchers[i]``; rows of None are left as they are."""
        if len(matchers) > len(self._rows):
            self._rows = allocate_rows(max(len(matchers), 2 * len(self._rows)), self._vocab_size)
        jobs = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
        if not jobs:
            return
        size = max(MIN_CHUNK, -(-len(jobs) // self._workers))
        for begin in range(0, len(jobs), size):
            self._pending.append(self._pool.submit(self._fill, jobs[begin : begin + size]))

    def finish(self, count: int) -> tuple[NDArray[np.int32], Failures]:
        """The first `count` rows, and what went wrong by row number. Valid until the next `start`."""
        failures: Failures = {}
        pending, self._pending = self._pending, []
        for future in pending:
            failures.update(future.result())
        return self._rows[:count], failures

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _fill(self, jobs: Seq[tuple[int, Matcher]]) -> Failures:
        failures: Failures = {}
        for row, matcher in jobs:
            try:
                matcher.fill_mask(self._rows[row])
            except DcModelError as error:
                failures[row] = error
            except Exception as error:  # a plug-in's matcher may raise anything
                failures[row] = ConstraintRuntimeError(f"the constraint's mask failed: {error!r}.")
        return failures
