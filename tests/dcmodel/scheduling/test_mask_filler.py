"""Mask rows on other threads: whose, when, and what goes wrong."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dcmodel.constraint import Explanation, Matcher
from dcmodel.errors import ConstraintRuntimeError, DeadEndError
from dcmodel.mask import mask_words
from dcmodel.scheduling.mask_filler import HAND_OVER, MIN_CHUNK, MaskFiller, chunks_of

VOCAB = 64
WAIT = 20.0


class Marker(Matcher):
    """Writes one number into its row; `before` runs first."""

    def __init__(self, number, *, before=None, lock_key=None, is_function=False):
        self.number = number
        self._lock_key = lock_key
        self.threads = []
        self.rows = []
        self._before = before
        self._is_function = is_function

    @property
    def lock_key(self):
        return self._lock_key

    def fill_mask(self, row):
        self.threads.append(threading.current_thread().name)
        self.rows.append(row)
        if self._before is not None:
            self._before()
        row[:] = self.number

    @property
    def may_wait(self):
        return self._is_function

    def advance(self, token_ids):
        return 0

    def forced(self):
        return []

    is_accepting = is_finished = False

    def fork(self):
        return self

    def rollback(self, count):
        raise ValueError

    def explain(self, token_id):
        return Explanation(token_id, False, "")


class Clock:
    """Each thread's reading is the shared one; it moves when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def filler():
    filler = MaskFiller(VOCAB, workers=2)
    yield filler
    filler.close()


def run(filler, matchers):
    filler.start(matchers)
    return filler.finish(len(matchers))


def test_each_row_is_its_matchers_and_rows_without_one_stay(filler):
    run(filler, [Marker(7), Marker(7), Marker(7)])
    rows, failures = run(filler, [Marker(1), None, Marker(3)])
    assert rows.tolist() == [[1, 1], [7, 7], [3, 3]]
    assert not failures


def test_what_a_matcher_raises_is_its_rows_failure_alone(filler):
    def dead_end():
        raise DeadEndError("nothing can follow.")

    def mistake():
        raise KeyError("mistake")

    rows, failures = run(
        filler, [Marker(1), Marker(2, before=dead_end), Marker(3, before=mistake), Marker(4)]
    )
    assert rows[[0, 3]].tolist() == [[1, 1], [4, 4]]
    assert sorted(failures) == [1, 2]
    assert isinstance(failures[1], DeadEndError)
    assert isinstance(failures[2], ConstraintRuntimeError)
    assert "KeyError('mistake')" in str(failures[2])


def test_a_matcher_is_given_the_same_row_again(filler):
    matcher = Marker(1)
    for _ in range(3):
        run(filler, [matcher])
    first, *others = matcher.rows
    assert all(row is first for row in others)


def test_more_rows_than_ever_before_have_room(filler):
    for count in (1, 5, 40):
        rows, _ = run(filler, [Marker(number) for number in range(count)])
        assert rows[:, 0].tolist() == list(range(count))


def test_matchers_with_one_lock_are_one_threads_work():
    jobs = [(row, Marker(row, lock_key="ab"[row % 2])) for row in range(4 * MIN_CHUNK)]
    chunks = chunks_of(jobs, 2)
    assert [{matcher.lock_key for _, matcher in chunk} for chunk in chunks] == [{"a"}, {"b"}]
    assert sorted(row for chunk in chunks for row, _ in chunk) == list(range(4 * MIN_CHUNK))


def test_matchers_without_a_lock_in_common_are_spread_evenly():
    jobs = [(row, Marker(row)) for row in range(4 * MIN_CHUNK)]
    assert [len(chunk) for chunk in chunks_of(jobs, 4)] == 4 * [MIN_CHUNK]
    assert [len(chunk) for chunk in chunks_of(jobs[:MIN_CHUNK], 4)] == [MIN_CHUNK]


def test_small_groups_fill_up_what_a_large_one_leaves():
    keys = 20 * ["large"] + 6 * ["middle"] + 6 * ["small"]
    jobs = [(row, Marker(row, lock_key=key)) for row, key in enumerate(keys)]
    assert [len(chunk) for chunk in chunks_of(jobs, 2)] == [20, 12]


def test_masks_are_computed_on_other_threads_until_they_prove_quick():
    clock = Clock()
    filler = MaskFiller(VOCAB, workers=2, cpu_clock=clock)
    duration = [10 * HAND_OVER]

    def spend():
        clock.now += duration[0]

    begun = threading.Event()
    matcher = Marker(1, before=lambda: (begun.set(), spend()))

    def run(filler, matchers):
        """The forward takes as long as a thread needs to begin."""
        begun.clear()
        filler.start(matchers)
        if filler._pending:
            assert begun.wait(WAIT)
        filler.finish(len(matchers))

    try:
        run(filler, [matcher])
        assert matcher.threads[-1].startswith("dcmodel-masks")
        duration[0] = 0.1 * HAND_OVER
        for _ in range(100):
            run(filler, [matcher])
        assert matcher.threads[-1] == threading.current_thread().name
        assert matcher.threads[2].startswith("dcmodel-masks")
        duration[0] = 10 * HAND_OVER
        run(filler, [matcher])
        run(filler, [matcher])
        assert matcher.threads[-1].startswith("dcmodel-masks")
    finally:
        filler.close()


def test_what_no_thread_has_begun_is_done_by_who_asks_for_it():
    filler = MaskFiller(VOCAB, workers=1)
    busy, go_on = threading.Event(), threading.Event()
    first = Marker(1, before=lambda: (busy.set(), go_on.wait(WAIT)))
    others = [Marker(number, lock_key=number, before=go_on.set) for number in range(2, 4)]
    try:
        filler._pool.submit(first.fill_mask, filler_row())
        assert busy.wait(WAIT)
        filler.start(others)
        rows, failures = filler.finish(2)
        assert not failures
        assert [row[0] for row in rows] == [2, 3]
        assert {thread for matcher in others for thread in matcher.threads} == {
            threading.current_thread().name
        }
    finally:
        filler.close()


def filler_row():
    return np.zeros(mask_words(VOCAB), dtype=np.int32)


def test_quick_masks_of_a_step_that_failed_are_not_computed():
    filler = MaskFiller(VOCAB, workers=1, cpu_clock=Clock())
    matcher = Marker(1)
    try:
        run(filler, [matcher])
        filler.start([matcher])
        filler.finish(0)
        assert len(matcher.threads) == 1
        run(filler, [matcher])
        assert len(matcher.threads) == 2
    finally:
        filler.close()


def test_functions_that_wait_wait_side_by_side(filler):
    barrier = threading.Barrier(12, timeout=WAIT)
    functions = [Marker(number, before=barrier.wait, is_function=True) for number in range(12)]
    rows, failures = run(filler, functions)
    assert not failures
    assert rows[:, 0].tolist() == list(range(12))


def test_a_function_that_waits_holds_up_no_other_row(filler):
    engine_rows_done = threading.Semaphore(0)

    def wait():
        for _ in range(16):
            assert engine_rows_done.acquire(timeout=WAIT)

    matchers = [Marker(0, before=wait, is_function=True)]
    matchers += [Marker(number, before=engine_rows_done.release) for number in range(1, 17)]
    rows, failures = run(filler, matchers)
    assert not failures
    assert rows[:, 0].tolist() == list(range(17))


def test_quick_functions_share_threads():
    clock = Clock()
    filler = MaskFiller(VOCAB, workers=2, clock=clock)
    try:
        for _ in range(2):
            functions = [Marker(number, is_function=True) for number in range(MIN_CHUNK)]
            run(filler, functions)
        assert len({name for function in functions for name in function.threads}) == 1
        assert np.all(run(filler, functions)[0][:, 0] == np.arange(MIN_CHUNK))
    finally:
        filler.close()
