"""Rates, pauses, outages and hanging requests, over hours of a virtual clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

import pytest
from fakes.simulated_endpoint import SimulatedHttp
from fakes.virtual_time import run_virtually

from dcmodel.errors import OverloadedError
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS, Transport
from lmql_backends.openai.transport.configuration import Configuration, make_client
from lmql_backends.openai.transport.control import ControlSettings
from lmql_backends.openai.transport.http import Reply
from lmql_backends.openai.transport.settings import TransportSettings

JOBS = 500
IDEAL = (JOBS - 20) / 10 + 1
"""Seconds at 600 a minute, with a burst of 20 and a latency of one second."""


@dataclass
class Outcome:
    seconds: list[float]
    """When each job ended, in order."""
    requests: int
    hedges: int

    @property
    def total(self) -> float:
        return self.seconds[-1]

    @property
    def p99(self) -> float:
        return self.seconds[int(0.99 * len(self.seconds))]


def run_jobs(
    jobs=JOBS, seed=0, path=CHAT_COMPLETIONS, may_group=False, deadline=600.0, **endpoint
) -> Outcome:
    return run_virtually(_run(jobs, seed, path, may_group, deadline, endpoint))


async def _run(jobs, seed, path, may_group, deadline, endpoint) -> Outcome:
    http = SimulatedHttp(seed=seed, **endpoint)
    client = make_client(base_url="http://simulated/v1", api_key="key")
    transport = Transport(
        Configuration(client, owns_client=True), TransportSettings(), make_http=lambda: http, rng=Random(seed)
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    seconds = []

    async def one(number: int) -> None:
        body = {"model": "m", "max_tokens": 10}
        if path == COMPLETIONS:
            body["prompt"] = f"prompt {number}"
        else:
            body["messages"] = [{"role": "user", "content": str(number)}]
        answer = await transport.complete(path, body, may_group=may_group, seconds=deadline)
        assert answer.choices[0]["text"] == "x"
        seconds.append(loop.time() - began)

    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(jobs):
                tasks.create_task(one(number))
    finally:
        await transport.aclose()
    return Outcome(sorted(seconds), http.requests, transport.counters.hedges)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("is_charged", [True, False])
@pytest.mark.parametrize(("has_headers", "has_retry_after"), [(True, True), (True, False), (False, True)])
def test_500_jobs_at_600_a_minute_take_hardly_longer_than_they_must(
    seed, is_charged, has_headers, has_retry_after
):
    outcome = run_jobs(
        seed=seed,
        per_minute=600,
        is_charged=is_charged,
        has_headers=has_headers,
        has_retry_after=has_retry_after,
    )
    assert outcome.total <= 1.1 * IDEAL
    assert outcome.requests <= 1.1 * JOBS


@pytest.mark.parametrize("seed", range(2))
def test_a_server_that_tells_nothing_is_found_out(seed):
    outcome = run_jobs(seed=seed, per_minute=600, has_headers=False, has_retry_after=False, is_charged=False)
    assert outcome.total <= 1.1 * IDEAL
    assert outcome.requests <= 1.1 * JOBS
    # The same, where each refused request makes things worse.
    outcome = run_jobs(seed=seed, per_minute=600, has_headers=False, has_retry_after=False)
    assert outcome.total <= 1.2 * IDEAL
    assert outcome.requests <= 1.2 * JOBS


def test_prompts_that_wait_for_the_rate_travel_together():
    outcome = run_jobs(path=COMPLETIONS, may_group=True, per_minute=600)
    assert outcome.requests <= JOBS / 50
    assert outcome.total < 5.0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("share_unavailable", [0.0, 0.05])
def test_a_few_hanging_requests_delay_nobody_for_long(seed, share_unavailable):
    outcome = run_jobs(seed=seed, share_hanging=0.02, share_unavailable=share_unavailable)
    assert outcome.p99 <= 12.0
    assert outcome.total <= 20.0
    assert outcome.hedges <= 0.05 * outcome.requests + 1
    assert outcome.requests <= 1.12 * JOBS


def test_who_joins_a_group_late_has_a_deadline_of_its_own():
    async def main() -> None:
        http = SimulatedHttp(latency=30.0)
        client = make_client(base_url="http://simulated/v1", api_key="key")
        settings = TransportSettings(control=ControlSettings(first_window=1.0, max_window=1.0))
        transport = Transport(Configuration(client, owns_client=True), settings, make_http=lambda: http)

        def ask(prompt: str, seconds: float):
            body = {"model": "m", "prompt": prompt}
            return asyncio.create_task(
                transport.complete(COMPLETIONS, body, may_group=prompt != "first", seconds=seconds)
            )

        first = ask("first", 600.0)
        await asyncio.sleep(1.0)
        hasty = ask("hasty", 5.0)
        await asyncio.sleep(1.0)
        patient = ask("patient", 600.0)
        with pytest.raises(OverloadedError):
            await hasty
        assert (await first).group == (await patient).group == 1
        assert http.requests == 2
        await transport.aclose()

    run_virtually(main())


def test_a_long_pause_is_waited_for_once_and_by_all():
    refused = Reply(429, {"retry-after": "180"}, b"")
    outcome = run_jobs(jobs=20, first=[refused])
    assert 180 <= outcome.total < 190
    assert outcome.requests <= 20 + 1


def test_a_pause_beyond_the_deadline_fails_everybody_at_once():
    refused = Reply(429, {"retry-after": "180"}, b"")
    with pytest.raises(ExceptionGroup) as raised:
        run_jobs(jobs=40, deadline=100.0, first=[refused] * 40)
    errors = raised.value.exceptions
    assert all(isinstance(error, OverloadedError) and error.retry_after > 100 for error in errors)


def test_an_outage_is_probed_by_single_requests_and_survived():
    unavailable = Reply(503, {}, b"")
    outcome = run_jobs(jobs=100, first=[unavailable] * 20)
    assert outcome.requests == 100 + 20
    assert outcome.total < 180


def test_the_window_opens_where_nothing_limits():
    assert run_jobs().total < 8.0
