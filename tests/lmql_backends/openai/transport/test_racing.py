"""Requests beside late ones, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest
from fakes.virtual_time import run_virtually

from lmql_backends.openai.transport.failures import AttemptFailed, Kind
from lmql_backends.openai.transport.hedging import HedgeSettings, Hedging
from lmql_backends.openai.transport.job import Job
from lmql_backends.openai.transport.racing import Race

LOST = AttemptFailed(Kind.CONNECTION, "lost")
WRONG = AttemptFailed(Kind.PERMANENT, "wrong", status=400)


def race(first, *hedges, stop_after=None, **settings):
    """Race requests that take so many seconds to an outcome; answers usually take one second.

    What it gave or raised, when, what was discarded, and which requests were cancelled.
    """

    async def main():
        loop = asyncio.get_running_loop()
        hedging = Hedging(HedgeSettings(**{"budget": 1.0, "factor": 2.0, **settings}))
        for _ in range(20):
            hedging.began()
            hedging.took("kind", 1.0)
        discarded, cancelled = [], []

        async def request(seconds, outcome):
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                cancelled.append(outcome)
                raise
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        left = list(hedges)
        made = Race(
            hedging,
            Job(order=0, deadline=1e9, kind="kind", is_sampled=False),
            lambda: request(*left.pop(0)),
            discarded.append,
        )
        began = loop.time()
        task = asyncio.create_task(made.run(request(*first)))
        if stop_after is not None:
            loop.call_later(stop_after, task.cancel)
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        assert stop_after is not None or task.cancelling() == 0
        return result, round(loop.time() - began, 6), discarded, cancelled

    return run_virtually(main())


def test_a_request_that_is_not_late_stays_alone():
    assert race((1.9, "a")) == ("a", 1.9, [], [])


def test_a_late_request_loses_to_its_hedge_and_is_cancelled():
    assert race((600, "a"), (1, "b")) == ("b", 3.0, [], ["a"])


def test_a_late_request_may_still_win():
    assert race((2.5, "a"), (1, "b")) == ("a", 2.5, [], ["b"])


def test_a_hedge_that_is_late_gets_one_itself():
    assert race((600, "a"), (600, "b"), (1, "c")) == ("c", 5.0, [], ["a", "b"])


def test_the_number_of_hedges_is_limited():
    result, seconds, _, cancelled = race((30, "a"), (600, "b"), (600, "c"), most=2)
    assert (result, seconds, cancelled) == ("a", 30, ["b", "c"])


def test_without_budget_there_are_no_hedges():
    assert race((600, "a"), budget=-1.0) == ("a", 600, [], [])


def test_a_failure_waits_for_a_hedge_that_runs():
    assert race((2.5, LOST), (1, "b")) == ("b", 3.0, [], [])


def test_a_failure_without_a_hedge_is_the_end():
    assert race((1.0, LOST)) == (LOST, 1.0, [], [])


def test_a_permanent_failure_ends_the_hedge_too():
    assert race((2.5, WRONG), (1, "b")) == (WRONG, 2.5, [], ["b"])


def test_when_all_fail_the_first_failure_counts():
    other = AttemptFailed(Kind.TIMEOUT, "late")
    assert race((2.5, LOST), (1, other)) == (LOST, 3.0, [], [])


def test_a_failed_hedge_leaves_the_first_request_alone():
    assert race((4.5, "a"), (1, LOST), (10, "c")) == ("a", 4.5, [], ["c"])


def test_a_failure_stops_new_hedges():
    assert race((2.5, LOST), (30, "b"), (1, "c")) == ("b", 32.0, [], [])


@pytest.mark.parametrize("after", [1.0, 2.5])
def test_who_is_cancelled_stays_cancelled(after):
    result, seconds, discarded, cancelled = race((600, "a"), (10, "b"), stop_after=after)
    assert isinstance(result, asyncio.CancelledError)
    assert seconds == after
    assert discarded == []
    assert cancelled == ["a", "b"][: 1 if after < 2 else 2]


@pytest.mark.parametrize("after", [3.0, 3.0 - 1e-9, 3.0 + 1e-9])
def test_a_winner_whose_caller_is_cancelled_in_the_same_moment_is_not_lost(after):
    result, _, discarded, cancelled = race((600, "a"), (1, "b"), stop_after=after)
    assert result == "b" or "b" in discarded + cancelled
    assert "a" in cancelled


def test_two_at_the_same_moment_give_one_result():
    result, _, discarded, cancelled = race((3.0, "a"), (1.0, "b"))
    assert {result, *discarded, *cancelled} == {"a", "b"}


def test_times_that_become_known_later_count_for_those_who_run():
    async def main():
        loop = asyncio.get_running_loop()
        hedging = Hedging(HedgeSettings(budget=1.0, factor=2.0))

        async def request(seconds, outcome):
            await asyncio.sleep(seconds)
            return outcome

        job = Job(order=0, deadline=1e9, kind="kind", is_sampled=False)
        made = Race(hedging, job, lambda: request(1.0, "b"), None)
        task = asyncio.create_task(made.run(request(600.0, "a")))
        await asyncio.sleep(5.0)
        began = loop.time()
        for _ in range(20):
            hedging.began()
            hedging.took("kind", 1.0)
        assert await task == "b"
        assert loop.time() - began == pytest.approx(1.0)

    run_virtually(main())
