"""What befalls an endpoint's answers does not change what a model gives: texts, log-probabilities, scores."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fakes.openai_models import OURS, PATIENT, transport_to
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.errors import RetryableError, SetupError, UnauthorizedError
from dcmodel.types import GenerateRequest, ModelInfo, SamplingParams, ScoreRequest
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.openai.double.plan import plan_from
from lmql_backends.lmtp.server.openai.double.rates import RateLimits
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.model import OpenAIDcModel

PROMPT = tuple(small_tokenizer().encode("The quick brown fox"))
TWICE = {"requests": ["1-2"]}
ANY = {
    "rate_limited, seconds": {"fault": "rate_limited", "retry_after": {"seconds": 1}, "requests": [1]},
    "rate_limited, milliseconds": {
        "fault": "rate_limited",
        "retry_after": {"seconds": 0.05, "form": "milliseconds"},
        **TWICE,
    },
    "500": {"fault": "error", "status": 500, **TWICE},
    "502 html": {"fault": "error", "status": 502, "html": True, **TWICE},
    "503": {"fault": "error", "status": 503, "requests": ["1-4"]},
    "408": {"fault": "error", "status": 408, **TWICE},
    "hang": {"fault": "hang", "requests": [1]},
    "reset": {"fault": "reset", **TWICE},
    "close": {"fault": "close", **TWICE},
    "slow": {"fault": "slow", "seconds": 0.05},
}
WHOLE = {
    "truncated": {"fault": "truncated", **TWICE},
    "cut_json": {"fault": "cut_json", **TWICE},
    "html": {"fault": "html", **TWICE},
    "no_choices": {"fault": "no_choices", **TWICE},
    "indices": {"fault": "indices", "order": "reversed"},
}
STREAMED = {
    "comments": {"fault": "comments"},
    "split": {"fault": "split", "size": 1, "crlf": True},
    "merged": {"fault": "merged", "tokens": 3},
    "empty_chunk": {"fault": "empty_chunk"},
    "no_done": {"fault": "no_done"},
    "stream_reset": {"fault": "stream_reset", "after": 3, **TWICE},
    "stream_close": {"fault": "stream_close", "after": 3, **TWICE},
    "stream_end": {"fault": "stream_end", "after": 3, **TWICE},
    "stall": {"fault": "stall", "after": 3, "requests": [1]},
    "bad_event": {"fault": "bad_event", "after": 3, **TWICE},
    "error_event": {"fault": "error_event", "after": 3, "status": 503, **TWICE},
}
TOGETHER = [
    {"fault": "rate_limited", "retry_after": {"seconds": 0.05, "form": "milliseconds"}, "requests": [1]},
    {"fault": "error", "status": 503, "requests": [2, 4]},
    {"fault": "split", "size": 3},
    {"fault": "comments"},
    {"fault": "stream_close", "after": 2, "requests": [3, 5]},
    {"fault": "stream_end", "after": 1, "requests": [6]},
    {"fault": "cut_json", "requests": [3]},
]
# A hang ends after these; on shared cores an answer takes its time.
QUICK = replace(PATIENT, retry=replace(PATIENT.retry, deadline=60.0, request_seconds=1.5, stall_seconds=1.5))


@asynccontextmanager
async def befallen(local, faults, rates=None):
    """A model whose endpoint has these faults; and what it gets."""
    double = Double(limits_from({"preset": "open"}), rates, plan_from({"faults": faults}))
    async with LMTPServer({"fake": local}, double=double) as server:
        asker = HttpAsker(transport_to(f"{server.http_url}/v1", QUICK), "fake", OURS, small_tokenizer())
        info = ModelInfo(
            name="fake", backend="openai", vocab_size=small_tokenizer().vocab_size, max_positions=512
        )
        model = OpenAIDcModel(asker, info)
        try:
            yield model, double
        finally:
            await model.aclose()


def request(**changes) -> GenerateRequest:
    sampling = SamplingParams(**changes.pop("sampling", {}))
    return GenerateRequest(prompt_ids=PROMPT, sampling=sampling, max_tokens=12, **changes)


FREE = {"greedy": request(), "seeded": request(sampling={"temperature": 1.0, "seed": 5})}
RULED = request(constraint=Regex("[a-z ]{4,9}"), sampling={"temperature": 1.0, "seed": 5})


async def assert_undisturbed(local, item, faults) -> None:
    async with befallen(local, []) as (model, _):
        expected = await model.generate(item).completion()
    async with befallen(local, faults) as (model, double):
        found = await model.generate(item).completion()
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert (found.finish_reason, found.stop_reason) == (expected.finish_reason, expected.stop_reason)
    assert found.certificate == expected.certificate
    for left, right in zip(found.logprobs, expected.logprobs, strict=True):
        assert left.raw_logprob == pytest.approx(right.raw_logprob, abs=1e-5, nan_ok=True)
    assert found.cost.requests == len(double.records)
    assert found.cost.retries == found.cost.requests - expected.cost.requests


@pytest.mark.parametrize("fault", [*ANY, *STREAMED])
@pytest.mark.parametrize("kind", FREE)
async def test_a_text_is_the_same(local, kind, fault) -> None:
    await assert_undisturbed(local, FREE[kind], [{**ANY, **STREAMED}[fault]])


@pytest.mark.parametrize("fault", [*ANY, *WHOLE])
async def test_a_constrained_text_is_the_same(local, fault) -> None:
    await assert_undisturbed(local, RULED, [{**ANY, **WHOLE}[fault]])


@pytest.mark.parametrize("item", [*FREE.values(), RULED], ids=[*FREE, "ruled"])
async def test_faults_that_come_together_change_nothing(local, item) -> None:
    await assert_undisturbed(local, item, TOGETHER)


async def test_no_more_of_the_prompt_was_cached_than_there_is(local) -> None:
    """Each part of a text that was cut sends the text so far, too."""
    async with befallen(local, [{"fault": "stream_close", "after": 12, "requests": [1]}]) as (model, double):
        request = GenerateRequest(prompt_ids=PROMPT, max_tokens=24, ignore_eos=True)
        completion = await model.generate(request).completion()
    assert len(double.records) == 2
    assert completion.cost.cached_tokens > len(PROMPT)
    assert completion.usage.cached_tokens == completion.usage.prompt_tokens == len(PROMPT)


async def test_scores_are_the_same(local) -> None:
    asked = ScoreRequest(prompt_ids=PROMPT, continuations=((5, 6), (7,), (8, 9, 10)))
    expected = await local.score(asked)
    async with befallen(local, [*TOGETHER, {"fault": "indices", "order": "reversed"}]) as (model, _):
        found = await model.score(asked)
    for left, right in zip(found.continuations, expected.continuations, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-5)


async def test_limits_per_minute_are_waited_for(local) -> None:
    """Eight texts where two may come at once, and the endpoint says when the next one may."""
    rates = RateLimits(requests_per_minute=600, burst_seconds=0.2, retry_after="milliseconds")
    async with befallen(local, []) as (model, _):
        expected = await model.generate(FREE["greedy"]).completion()
    async with befallen(local, [], rates) as (model, _):
        streams = [model.generate(FREE["greedy"]) for _ in range(8)]
        found = [await stream.completion() for stream in streams]
    assert {item.text for item in found} == {expected.text}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"fault": "insufficient_quota"}, SetupError),
        ({"fault": "error", "status": 401}, UnauthorizedError),
    ],
    ids=["insufficient_quota", "401"],
)
async def test_what_no_waiting_helps_against_is_asked_once(local, fault, error) -> None:
    async with befallen(local, [fault]) as (model, double):
        with pytest.raises(error):
            await model.generate(FREE["greedy"]).completion()
        assert len(double.records) == 1


async def test_what_does_not_pass_is_given_up(local) -> None:
    async with befallen(local, [{"fault": "error", "status": 500}]) as (model, double):
        with pytest.raises(RetryableError):
            await model.generate(FREE["greedy"]).completion()
        assert 1 < len(double.records) < 20
