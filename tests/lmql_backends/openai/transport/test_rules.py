"""The rules without I/O: headers, window, pace, breaker, budget."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from random import Random

import pytest
from fakes.virtual_time import run_virtually

from dcmodel.errors import OverloadedError
from lmql_backends.openai.transport.control import BEYOND_WINDOW, Control, ControlSettings
from lmql_backends.openai.transport.failures import AttemptFailed, Kind, from_response
from lmql_backends.openai.transport.gate import Gate
from lmql_backends.openai.transport.rate_headers import duration, rate_limits, retry_after
from lmql_backends.openai.transport.retry import Retries, RetryPolicy

REFUSED = AttemptFailed(Kind.RATE_LIMITED, "no", status=429)
UNAVAILABLE = AttemptFailed(Kind.UNAVAILABLE, "no", status=503)
TIMEOUT = AttemptFailed(Kind.TIMEOUT, "no")
LOST = AttemptFailed(Kind.CONNECTION, "no")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after": formatdate(1_000_007, usegmt=True)}, 7),
        ({"retry-after": formatdate(999_000, usegmt=True)}, 0),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers, 1_000_000) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("7", 7),
        ("x", None),
        ("", None),
        ("1x", None),
    ],
)
def test_durations(text, seconds):
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_rate_headers_that_make_no_sense_are_left_out():
    headers = {"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "100"}
    limits = rate_limits({**headers, "x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "-1"})
    assert limits.requests.is_short
    assert limits.requests.per_second == 10
    assert limits.tokens is None


def test_x_should_retry_is_obeyed():
    assert from_response(500, {"x-should-retry": "false"}, b"", 0).kind is Kind.PERMANENT
    assert from_response(418, {"x-should-retry": "true"}, b"", 0).kind is Kind.UNAVAILABLE


def control(**settings) -> Control:
    return Control(ControlSettings(**settings), Random(0))


def start(made: Control, number: int, now=0.0) -> None:
    for _ in range(number):
        assert made.delay(now) == 0.0
        made.started(now, 0)


def test_the_window_doubles_with_each_round_until_it_is_cut():
    made = control(first_window=4)
    start(made, 4)
    assert made.delay(0.0) == BEYOND_WINDOW
    for _ in range(4):
        made.succeeded(1.0)
        made.ended()
    assert made.window > 6
    made.failed(2.0, TIMEOUT)
    window = made.window
    made.failed(2.5, TIMEOUT)
    assert made.window == window
    made.failed(3.1, TIMEOUT)
    assert made.window == pytest.approx(0.7 * window)


def test_a_window_that_is_not_used_does_not_grow():
    made = control(first_window=16)
    for _ in range(50):
        start(made, 1)
        made.succeeded(0.0)
        made.ended()
    assert made.window == 16


def test_a_short_allowance_sets_the_pace_and_a_full_one_lifts_it():
    made = control()
    head = {"x-ratelimit-limit-requests": "120", "x-ratelimit-remaining-requests": "20"}
    made.saw(rate_limits(head))
    start(made, 1, now=0.0)
    assert made.delay(0.0) == pytest.approx(0.5)
    assert made.delay(0.5) == 0.0
    made.saw(rate_limits({**head, "x-ratelimit-remaining-requests": "100"}))
    start(made, 2, now=1.0)


def test_scarce_tokens_set_the_pace_by_the_size_of_requests():
    made = control()
    made.saw(rate_limits({"x-ratelimit-limit-tokens": "6000", "x-ratelimit-remaining-tokens": "10"}))
    made.started(0.0, 50)
    assert made.delay(0.0) == pytest.approx(0.5)


def test_the_common_pause_is_the_longest_that_was_asked_for():
    made = control(max_pause=100)
    made.failed(0.0, AttemptFailed(Kind.RATE_LIMITED, "no", status=429, retry_after=20))
    made.failed(0.1, AttemptFailed(Kind.RATE_LIMITED, "no", status=429, retry_after=5))
    assert made.delay(0.0) == 20
    made.failed(0.2, AttemptFailed(Kind.UNAVAILABLE, "no", status=503, retry_after=5000))
    assert made.delay(0.2) == 100


def test_after_many_failures_only_single_probes_go_out_with_growing_pauses():
    made = control(breaker=3)
    made.started(0.0, 0)
    for _ in range(3):
        made.failed(0.0, UNAVAILABLE)
    assert made.is_broken
    assert made.delay(1.0) == BEYOND_WINDOW
    made.ended()
    first = made.pause_until
    start(made, 1, now=first)
    assert made.delay(first) == BEYOND_WINDOW
    made.failed(first, UNAVAILABLE)
    made.ended()
    assert made.pause_until - first > first
    start(made, 1, now=100.0)
    made.succeeded(101.0)
    made.ended()
    assert not made.is_broken
    start(made, 4, now=101.0)


def test_a_permanent_error_says_nothing_of_the_endpoint():
    made = control()
    window = made.window
    made.failed(0.0, AttemptFailed(Kind.PERMANENT, "no", status=400))
    assert (made.window, made.delay(0.0)) == (window, 0.0)


def retries(**policy) -> Retries:
    return Retries(RetryPolicy(**policy), deadline=100.0, rng=Random(0))


def test_waits_lie_between_base_and_cap_and_end_with_the_budget():
    made = retries(budget=30, base=0.5, cap=3.0)
    waits = [made.wait(UNAVAILABLE, 0.0, has_answered=True) for _ in range(30)]
    assert waits[-1] is None
    assert all(0.5 <= wait <= 3.0 for wait in waits[:-1])
    assert max(waits[:-1]) == 3.0


def test_refusals_for_the_rate_cost_nothing_and_wait_at_the_gate():
    made = retries(budget=2)
    assert [made.wait(REFUSED, 0.0, has_answered=True) for _ in range(50)] == [0.0] * 50


def test_a_wait_beyond_the_deadline_is_no_wait():
    refused = AttemptFailed(Kind.RATE_LIMITED, "no", status=429, retry_after=180)
    assert retries().wait(refused, 0.0, has_answered=True) is None
    assert retries().wait(UNAVAILABLE, 99.99, has_answered=True) is None
    assert retries().wait(UNAVAILABLE, 101.0, has_answered=True) is None


def test_the_server_may_ask_for_a_longer_wait():
    asked = AttemptFailed(Kind.UNAVAILABLE, "no", status=503, retry_after=30)
    assert retries().wait(asked, 0.0, has_answered=True) == 30


def test_progress_restores_the_budget():
    made = retries(budget=2)
    for _ in range(20):
        assert made.wait(LOST, 0.0, has_answered=True) is not None
        made.progressed()


def test_a_slow_server_gets_more_time_with_each_timeout():
    made = retries(request_seconds=10.0)
    assert made.seconds(0.0) == 10
    made.wait(TIMEOUT, 0.0, has_answered=True)
    made.wait(TIMEOUT, 0.0, has_answered=True)
    assert made.seconds(0.0) == 40
    assert made.seconds(90.0) == 10


def test_the_first_by_rank_goes_first_and_a_cancelled_one_keeps_no_place():
    async def main() -> list[int]:
        gate = Gate(ControlSettings(first_window=1.0, max_window=1.0), Random(0))
        order = []

        async def job(number: int) -> None:
            slot = await gate.enter((0, number), 1e9, 0)
            order.append(number)
            await asyncio.sleep(1.0)
            slot.leave()
            slot.leave()

        tasks = [asyncio.create_task(job(number)) for number in (5, 9, 1, 3, 2)]
        await asyncio.sleep(0.5)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.control.in_flight == 0
        return order

    assert run_virtually(main()) == [5, 1, 2, 9]


def test_a_place_granted_to_one_who_is_cancelled_goes_to_the_next():
    async def main() -> None:
        gate = Gate(ControlSettings(first_window=1.0, max_window=1.0), Random(0))
        slot = await gate.enter((0, 0), 1e9, 0)
        first = asyncio.create_task(gate.enter((0, 1), 1e9, 0))
        second = asyncio.create_task(gate.enter((0, 2), 1e9, 0))
        await asyncio.sleep(0)
        slot.leave()
        first.cancel()
        (await second).leave()
        assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)
        assert gate.control.in_flight == 0

    run_virtually(main())


def test_a_deadline_at_the_gate_is_an_error_with_the_reason():
    async def main() -> None:
        gate = Gate(ControlSettings(first_window=1.0, max_window=1.0), Random(0))
        slot = await gate.enter((0, 0), 1e9, 0)
        gate.failed(UNAVAILABLE)
        with pytest.raises(OverloadedError, match="last said: no"):
            await gate.enter((0, 1), asyncio.get_running_loop().time() + 5.0, 0)
        slot.leave()
        (await gate.enter((0, 2), 1e9, 0)).leave()

    run_virtually(main())
