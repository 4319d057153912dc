"""Requests in flight: their order, their number, and what an error does to the rest."""

from __future__ import annotations

import asyncio

import pytest

from lmql_backends.lm_eval.flight import run_in_flight


def test_no_more_than_allowed_at_a_time_and_in_order():
    begun: list[int] = []
    running: set[int] = set()
    most = 0

    async def job(item: int) -> None:
        nonlocal most
        begun.append(item)
        running.add(item)
        most = max(most, len(running))
        for _ in range(item % 3 + 1):
            await asyncio.sleep(0)
        running.remove(item)

    run_in_flight(job, range(50), 7)
    assert begun == list(range(50))
    assert most == 7
    assert not running


def test_nothing_to_do():
    async def job(item: int) -> None:
        raise AssertionError

    run_in_flight(job, [], 4)


def test_the_first_error_ends_the_rest():
    begun: list[int] = []
    cancelled: list[int] = []

    async def job(item: int) -> None:
        begun.append(item)
        if item == 2:
            raise ValueError("item 2")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(ValueError, match="item 2"):
        run_in_flight(job, range(10), 4)
    assert set(begun) == {0, 1, 2, 3}
    assert set(cancelled) == {0, 1, 3}
