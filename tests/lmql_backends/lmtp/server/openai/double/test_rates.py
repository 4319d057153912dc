"""Token buckets, their headers, and what a refused client is told."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from lmql_backends.lmtp.server.openai.double import Double, RateLimits
from lmql_backends.lmtp.server.openai.double.rates import Meter, duration, expected_tokens
from lmql_backends.lmtp.server.openai.double.refusals import RefusalError

openai = pytest.importorskip("openai")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def granted(meter, count, tokens=1) -> int:
    """How many of so many requests are admitted."""
    number = 0
    for _ in range(count):
        try:
            meter.admit("fake", tokens)
            number += 1
        except RefusalError:
            pass
    return number


def test_a_bucket_holds_what_a_minute_brings_and_fills_evenly():
    clock = Clock()
    meter = Meter(RateLimits(requests_per_minute=60, charges_rejections=False), clock)
    assert granted(meter, 100) == 60
    clock.now += 5
    assert granted(meter, 100) == 5
    clock.now += 1_000
    assert granted(meter, 100) == 60


def test_rejections_that_are_charged_keep_the_bucket_empty():
    clock = Clock()
    meters = [
        Meter(RateLimits(requests_per_minute=60, charges_rejections=charged), clock) for charged in (0, 1)
    ]
    for meter in meters:
        granted(meter, 60)
    counts = [0, 0]
    for _ in range(40):  # ten seconds of asking four times as often as is allowed
        clock.now += 0.25
        counts = [count + granted(meter, 1) for count, meter in zip(counts, meters, strict=True)]
    assert counts == [10, 0]
    clock.now += 1  # who waits as long as it is told gets its turn
    assert granted(meters[1], 1) == 1


def test_a_burst_may_be_shorter_than_a_minute():
    clock = Clock()
    meter = Meter(RateLimits(requests_per_minute=600, burst_seconds=1), clock)
    assert granted(meter, 100) == 10


def test_tokens_have_a_bucket_of_their_own():
    clock = Clock()
    meter = Meter(RateLimits(requests_per_minute=60, tokens_per_minute=600), clock)
    assert granted(meter, 3, tokens=250) == 2
    with pytest.raises(RefusalError) as caught:
        meter.admit("fake", 250)
    assert caught.value.body["error"]["type"] == "tokens"
    assert caught.value.headers["retry-after"] == "15"  # 150 tokens are missing, and 10 come each second
    clock.now += 15
    assert granted(meter, 1, tokens=250) == 1


def test_what_is_more_than_a_bucket_can_hold_waits_for_a_full_one():
    clock = Clock()
    meter = Meter(RateLimits(tokens_per_minute=60), clock)
    assert granted(meter, 2, tokens=500) == 1
    clock.now += 60
    assert granted(meter, 1, tokens=500) == 1


def test_expected_tokens_are_the_answers_limit_and_a_guess_of_the_prompt():
    assert expected_tokens({"prompt": "a" * 40, "max_tokens": 5, "n": 2}) == 20
    assert expected_tokens({"prompt": [1, 2, 3]}) == 19
    assert expected_tokens({"messages": [{"role": "user", "content": "a" * 36}], "max_tokens": 1}) == 11


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.02, "20ms"), (1, "1s"), (1.574, "1.574s"), (360, "6m0s"), (3_661, "1h1m1s")],
)
def test_durations_look_as_openais(seconds, text):
    assert duration(seconds) == text


async def refused(serve, rates):
    """The error of the second request of two, of which one is allowed, and the headers of the first."""
    double = Double(rates=rates, clock=Clock(), wall=Clock(1_700_000_000.0))
    async with serve(double) as client:
        first = await client.completions.with_raw_response.create(model="fake", prompt="a", max_tokens=1)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.completions.create(model="fake", prompt="a", max_tokens=1)
    assert [record.status for record in double.records] == [200, 429]
    return caught.value, first.headers


async def test_a_client_over_the_limit_gets_openais_error_and_headers(serve):
    error, headers = await refused(serve, RateLimits(requests_per_minute=1))
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert "Limit 1, Used 1, Requested 1. Please try again in 1m0s." in error.message
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    assert "x-ratelimit-limit-tokens" not in headers
    assert headers["x-request-id"] != error.request_id
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date", "none"])
async def test_when_to_come_again_is_said_in_each_form(serve, form):
    error, _ = await refused(serve, RateLimits(requests_per_minute=1, retry_after=form))
    headers = error.response.headers
    assert headers.get("retry-after-ms") == ("60000" if form == "milliseconds" else None)
    if form == "date":
        assert parsedate_to_datetime(headers["retry-after"]).timestamp() == 1_700_000_060
    else:
        assert headers.get("retry-after") == ("60" if form == "seconds" else None)


async def test_headers_can_be_azures_or_none(serve):
    error, _ = await refused(serve, RateLimits(requests_per_minute=1, headers="azure"))
    assert error.response.headers["x-ratelimit-remaining-requests"] == "-1"
    error, headers = await refused(serve, RateLimits(requests_per_minute=1, headers="none"))
    assert not [name for name in (*headers, *error.response.headers) if name.startswith("x-ratelimit")]
