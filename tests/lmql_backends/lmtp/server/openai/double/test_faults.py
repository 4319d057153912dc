"""Faults of whole answers, as the official client sees them."""

from __future__ import annotations

import asyncio
import json

import pytest

from lmql_backends.lmtp.server.openai.double import Double, plan_from
from lmql_backends.lmtp.server.server import LMTPServer

openai = pytest.importorskip("openai")

PROMPTS = ["a", "b", "c"]


def double_with(*faults, **options) -> Double:
    return Double(plan=plan_from({"faults": list(faults)}), **options)


async def complete(client, **fields):
    given = {"model": "fake", "prompt": "a", "max_tokens": 4, "temperature": 0, **fields}
    return await client.completions.create(**given)


async def error_of(serve, fault, kind, **options):
    """What the client raises, and that it does not at the next request."""
    double = double_with({"requests": [1], **fault})
    async with serve(double, **options) as client:
        with pytest.raises(kind) as caught:
            await complete(client)
        await complete(client)
    return caught.value


STATUSES = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (408, openai.APIStatusError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (502, openai.InternalServerError),
    (503, openai.InternalServerError),
    (529, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_a_status_is_the_error_that_the_client_has_for_it(serve, status, kind):
    error = await error_of(serve, {"fault": "error", "status": status}, kind)
    assert error.status_code == status
    assert error.body["message"] or status == 529


async def test_message_type_code_and_page_can_be_given(serve):
    fault = {"fault": "error", "status": 400, "message": "no", "type": "t", "code": "c", "should_retry": True}
    error = await error_of(serve, fault, openai.BadRequestError)
    assert (error.body, error.response.headers["x-should-retry"]) == (
        {"message": "no", "type": "t", "param": None, "code": "c"},
        "true",
    )
    page = await error_of(serve, {"fault": "error", "status": 502, "html": True}, openai.InternalServerError)
    assert "502 Bad Gateway" in page.response.text
    assert page.response.headers["content-type"] == "text/html"


async def test_no_quota_is_a_429_that_says_so(serve):
    error = await error_of(serve, {"fault": "insufficient_quota"}, openai.RateLimitError)
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date", "none"])
async def test_a_429_says_when_to_come_again(serve, form):
    fault = {"fault": "rate_limited", "retry_after": {"seconds": 180, "form": form}}
    headers = (await error_of(serve, fault, openai.RateLimitError)).response.headers
    assert headers.get("retry-after-ms") == ("180000" if form == "milliseconds" else None)
    assert ("GMT" in headers.get("retry-after", "")) == (form == "date")
    assert (headers.get("retry-after") == "180") == (form == "seconds")


@pytest.mark.parametrize("fault", ["rate_limited", "error"])
async def test_the_client_gives_up_after_three_of_four_faults(serve, fault):
    more = (
        {"status": 503} if fault == "error" else {"retry_after": {"form": "milliseconds", "seconds": 0.001}}
    )
    double = double_with({"fault": fault, "requests": ["1-4"], **more})
    async with serve(double, max_retries=2) as client:
        with pytest.raises(openai.APIStatusError):
            await complete(client)
    assert len(double.records) == 3


async def test_a_wait_of_three_minutes_is_an_error_at_once(serve):
    double = double_with({"fault": "rate_limited", "retry_after": {"seconds": 180}})
    async with serve(double, max_retries=2) as client:
        with pytest.raises(openai.RateLimitError):
            await asyncio.wait_for(complete(client), 20)
    assert len(double.records) == 1


async def test_a_request_that_hangs_ends_with_the_clients_patience(serve):
    await error_of(serve, {"fault": "hang"}, openai.APITimeoutError, timeout=0.3)


@pytest.mark.parametrize("fault", ["reset", "close", "truncated"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_is_cut_is_a_connection_error(serve, fault, reset):
    more = {"reset": reset} if fault == "truncated" else {}
    error = await error_of(serve, {"fault": fault, **more}, openai.APIConnectionError)
    assert not isinstance(error, openai.APITimeoutError)


async def test_cut_json_is_none_of_the_clients_errors(serve):
    await error_of(serve, {"fault": "cut_json"}, json.JSONDecodeError)


async def test_a_page_with_status_200_is_a_text_to_the_client(serve):
    async with serve(double_with({"fault": "html"})) as client:
        answer = await complete(client)
    assert isinstance(answer, str)
    assert answer.startswith("<html>")


async def test_an_answer_without_choices_is_returned_as_it_is(serve):
    async with serve(double_with({"fault": "no_choices"})) as client:
        answer = await complete(client)
    assert answer.choices == []
    assert answer.usage.completion_tokens == 4


async def test_choices_may_have_wrong_numbers_or_orders(serve):
    async with serve(Double()) as client:
        texts = [choice.text for choice in (await complete(client, prompt=PROMPTS)).choices]
    async with serve(double_with({"fault": "indices"})) as client:
        same = (await complete(client, prompt=PROMPTS)).choices
    async with serve(double_with({"fault": "indices", "order": "reversed"})) as client:
        turned = (await complete(client, prompt=PROMPTS)).choices
    assert [choice.index for choice in same] == [0, 0, 0]
    assert [choice.text for choice in same] == texts
    assert [choice.index for choice in turned] == [2, 1, 0]
    assert [choice.text for choice in turned] == texts[::-1]


async def test_faults_of_one_answer_are_applied_in_their_order(serve):
    cut = [{"fault": "cut_json"}, {"fault": "no_choices"}, {"fault": "indices"}, {"fault": "truncated"}]
    async with serve(double_with(*cut)) as client:
        with pytest.raises(openai.APIConnectionError):
            await complete(client)
    async with serve(double_with({"fault": "html"}, {"fault": "indices"})) as client:
        assert isinstance(await complete(client), str)


async def test_a_slow_answer_comes_later(serve):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    async with serve(double_with({"fault": "slow", "seconds": 2.5}, sleep=sleep)) as client:
        await complete(client)
        stream = await complete(client, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream])
    assert waited == [2.5, 2.5]


async def test_faults_are_on_record(serve):
    double = double_with({"fault": "error", "status": 500, "requests": [2]})
    async with serve(double) as client:
        await complete(client)
        with pytest.raises(openai.InternalServerError):
            await complete(client, prompt="b")
    first, second = double.records
    assert (first.number, first.status, first.faults) == (1, 200, ())
    assert (second.number, second.status, second.body["prompt"]) == (2, 500, "b")
    assert second.faults == double.plan.faults


async def test_a_server_with_a_hanging_request_closes_at_once(model):
    arrived = asyncio.Event()

    def wall():
        arrived.set()
        return 0.0

    async with asyncio.timeout(30):
        async with LMTPServer({"fake": model}, double=double_with({"fault": "hang"}, wall=wall)) as server:
            client = openai.AsyncOpenAI(base_url=f"{server.http_url}/v1", api_key="none", max_retries=0)
            waiting = asyncio.create_task(complete(client))
            await arrived.wait()
        with pytest.raises(openai.APIConnectionError):
            await waiting
        await client.close()
