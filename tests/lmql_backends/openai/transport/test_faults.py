"""The fault table: what is survived, and what is given up after one request."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from fakes.fault_server import ANSWER, WORDS, Action, Exchange, FaultServer, chunk, stream
from fakes.openai_models import PATIENT

from dcmodel.errors import (
    CapabilityError,
    ConnectionLostError,
    ContextLengthError,
    DcModelError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RetryableError,
    SetupError,
    UnauthorizedError,
)
from lmql_backends.openai.transport.client import CHAT_COMPLETIONS, COMPLETIONS
from lmql_backends.openai.transport.continuation import ChatContinuation, ChatStyle
from lmql_backends.openai.transport.failures import from_response, to_error

BODY = {"model": "m", "prompt": "Say:", "max_tokens": 8, "temperature": 1}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say"}], "max_tokens": 8, "temperature": 1}


def refusing(status: int, message: str = "no", **headers: str) -> Action:
    return lambda exchange: exchange.error(status, message, **headers)


def saying(body: bytes, kind: str = "application/json") -> Action:
    return lambda exchange: exchange.answer(200, body, kind=kind)


async def date(exchange: Exchange) -> None:
    await exchange.error(429, retry_after=formatdate(time.time() + 1, usegmt=True))


async def hang(exchange: Exchange) -> None:
    await exchange.hang()


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def truncated(exchange: Exchange) -> None:
    exchange.writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    await exchange.writer.drain()
    exchange.finish()


NOT_STREAMED = {
    "429 and seconds": [refusing(429, retry_after="1")],
    "429 and milliseconds": [refusing(429, retry_after_ms="30")],
    "429 and a date": [date],
    "429 four times": [refusing(429)] * 4,
    "503 four times": [refusing(503)] * 4,
    "500": [refusing(500)],
    "502 html": [lambda exchange: exchange.answer(502, b"<html>", kind="text/html")],
    "408": [refusing(408)],
    "hang": [hang],
    "reset": [reset],
    "truncated body": [truncated],
    "cut JSON": [saying(b'{"choices": [{"te')],
    "200 html": [saying(b"<html>sign in</html>", "text/html")],
    "no choices": [saying(b'{"choices": []}')],
}


@pytest.mark.parametrize("script", NOT_STREAMED.values(), ids=NOT_STREAMED)
async def test_a_fault_that_passes_is_survived(connect, script):
    async with FaultServer(script) as server:
        transport = connect(server)
        answer = await transport.complete(COMPLETIONS, BODY)
    assert answer.choices[0]["text"] == ANSWER
    assert len(server.exchanges) == len(script) + 1 == answer.spent.requests == transport.counters.requests
    assert answer.spent.retries == len(script)


def cut(how: Action) -> Action:
    """Three words, then this."""

    async def action(exchange: Exchange) -> None:
        await stream(exchange, WORDS[:3], is_whole=False)
        await how(exchange)

    return action


async def finish(exchange: Exchange) -> None:
    exchange.finish()


async def bad_json(exchange: Exchange) -> None:
    await exchange.piece(b'data: {"choices": [{"te\n\n')
    await exchange.hang()


async def clean_end(exchange: Exchange) -> None:
    await exchange.end_stream()


def error_event(code: int | str) -> Action:
    async def action(exchange: Exchange) -> None:
        await exchange.event({"error": {"message": "no", "code": code}})
        await exchange.hang()

    return action


MID_STREAM = {
    "reset": reset,
    "end of the connection": finish,
    "stall": hang,
    "bad JSON": bad_json,
    "429 as an event": error_event(429),
    "503 as an event": error_event("overloaded_error"),
    "clean end without a finish reason": clean_end,
}
SOON_STALLED = replace(PATIENT, retry=replace(PATIENT.retry, stall_seconds=1.0))
"""A machine under load may take long to answer, too: that would be a second cut."""
IDS_BODY = {**BODY, "prompt": [1, 2], "return_token_ids": True}


@pytest.mark.parametrize("body", [BODY, IDS_BODY, CHAT], ids=["text", "ids", "chat"])
@pytest.mark.parametrize("how", MID_STREAM.values(), ids=MID_STREAM)
async def test_a_cut_stream_goes_on_where_it_was(connect, how, body):
    path = CHAT_COMPLETIONS if "messages" in body else COMPLETIONS
    continuation = ChatContinuation(ChatStyle.FINAL_MESSAGE) if "messages" in body else None
    settings = SOON_STALLED if how is hang else PATIENT
    async with FaultServer([cut(how)]) as server:
        transport = connect(server, settings)
        async with transport.stream(path, body, continuation=continuation) as chunks:
            text = "".join([part.text async for part in chunks])
    assert text == ANSWER == chunks.received.text
    assert chunks.result.finish_reason == "stop"
    assert chunks.result.resumes == 1
    assert len(server.exchanges) == 2
    assert server.exchanges[1].body["max_tokens"] == 5


PERMANENT = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: CapabilityError,
    413: InvalidRequestError,
    422: InvalidRequestError,
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("status", "error"), PERMANENT.items())
async def test_a_permanent_error_costs_one_request(connect, status, error, streamed):
    async with FaultServer(otherwise=refusing(status, "your request is wrong")) as server:
        transport = connect(server)
        asked = (
            anext(transport.stream(COMPLETIONS, BODY)) if streamed else transport.complete(COMPLETIONS, BODY)
        )
        with pytest.raises(error, match=f"{status}: your request is wrong"):
            await asked
    assert len(server.exchanges) == 1


@pytest.mark.parametrize(
    ("status", "code", "message", "error"),
    [
        (429, "insufficient_quota", "You exceeded your current quota", SetupError),
        (429, "rate_limit_exceeded", "Request too large for m", ContextLengthError),
        (404, "model_not_found", "no such model", ModelNotFoundError),
        (404, "", "The model `m` does not exist.", ModelNotFoundError),
        (404, "", "there is nothing at '/v2/models'", CapabilityError),
        (400, "context_length_exceeded", "too long", ContextLengthError),
        (400, None, "This model's maximum context length is 4096 tokens", ContextLengthError),
        (400, "unsupported_parameter", "logprobs are not supported", CapabilityError),
    ],
)
async def test_the_code_decides_what_a_permanent_error_is(connect, status, code, message, error):
    body = {"error": {"message": message, "code": code, "type": None, "param": None}}
    async with FaultServer(otherwise=lambda exchange: exchange.answer(status, body)) as server:
        with pytest.raises(DcModelError) as raised:
            await connect(server).complete(COMPLETIONS, BODY)
    assert type(raised.value) is error
    assert len(server.exchanges) == 1
    assert not raised.value.retryable


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("the context is 8 tokens", "Shorten the prompt, or lower max_tokens."),
        ("The model's context is 8 tokens. Shorten the prompt, or ask for fewer tokens.", ""),
        ("Your messages resulted in 9 tokens. Please reduce the length of the messages.", ""),
    ],
)
def test_a_remedy_is_said_once(message, remedy):
    body = json.dumps({"error": {"message": message, "code": "context_length_exceeded"}}).encode()
    error = to_error(from_response(400, {}, body, 0.0))
    assert type(error) is ContextLengthError
    assert error.remedy == remedy
    assert str(error).startswith(f"the endpoint answered 400: {message.rstrip('.')}.")


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail": "Not here"}',
        b'{"message": "Not here", "code": 400}',
        b'{"error": "Not here"}',
        b"Not here",
    ],
)
async def test_the_message_is_found_in_every_kind_of_error_body(connect, body):
    async with FaultServer(otherwise=lambda exchange: exchange.answer(400, body)) as server:
        with pytest.raises(InvalidRequestError, match=r"400: Not here\."):
            await connect(server).complete(COMPLETIONS, BODY)


async def test_a_refusal_longer_than_the_deadline_fails_at_once_with_the_time(connect):
    async with FaultServer(otherwise=refusing(429, retry_after="180")) as server:
        with pytest.raises(OverloadedError, match="180 seconds") as raised:
            await connect(server).complete(COMPLETIONS, BODY, seconds=5.0)
    assert raised.value.retry_after == 180
    assert len(server.exchanges) == 1


async def test_what_waits_at_the_gate_fails_with_it(connect):
    async with FaultServer(otherwise=refusing(429, retry_after="180")) as server:
        transport = connect(server)
        with pytest.raises(OverloadedError):
            await transport.complete(COMPLETIONS, BODY)
        with pytest.raises(OverloadedError, match="beyond the deadline") as raised:
            await transport.complete(COMPLETIONS, BODY)
    assert len(server.exchanges) == 1
    assert 170 < raised.value.retry_after <= 180


async def test_a_fault_that_stays_ends_with_the_budget(connect):
    async with FaultServer(otherwise=refusing(500, "broken")) as server:
        with pytest.raises(RetryableError, match="500: broken"):
            await connect(server).complete(COMPLETIONS, BODY)
    assert len(server.exchanges) == 8


async def test_a_server_that_is_not_there_is_not_asked_for_long(connect):
    async with FaultServer() as server:
        transport = connect(server)
    with pytest.raises(ConnectionLostError, match="could not be reached"):
        await transport.complete(COMPLETIONS, BODY)
    assert transport.counters.requests == 3


async def test_a_stream_opens_after_faults(connect):
    script = [refusing(503), refusing(429, retry_after_ms="20"), hang, reset, saying(b"<html>", "text/html")]
    script += [saying(b'{"error": {"message": "later", "code": 503}}'), saying(b"", "text/event-stream")]
    async with FaultServer(script) as server, connect(server).stream(COMPLETIONS, BODY) as chunks:
        assert "".join([part.text async for part in chunks]) == ANSWER
    assert len(server.exchanges) == len(script) + 1


async def test_a_stream_whose_last_token_came_needs_no_other_request(connect):
    async def all_words(exchange: Exchange) -> None:
        await stream(exchange, WORDS, is_whole=False)
        exchange.finish()

    async with FaultServer([all_words]) as server, connect(server).stream(COMPLETIONS, IDS_BODY) as chunks:
        assert "".join([part.text async for part in chunks]) == ANSWER
    assert chunks.result.finish_reason == "length"
    assert len(server.exchanges) == 1


async def test_a_stream_cut_before_its_account_is_whole(connect):
    async def no_done(exchange: Exchange) -> None:
        await stream(exchange, WORDS, is_whole=False)
        await exchange.event(chunk(exchange.body, "", finish_reason="stop"))
        exchange.reset()

    async with FaultServer([no_done]) as server, connect(server).stream(COMPLETIONS, BODY) as chunks:
        assert "".join([part.text async for part in chunks]) == ANSWER
    assert chunks.result.is_usage_estimated
    assert len(server.exchanges) == 1


async def test_cut_again_and_again(connect):
    async def one_word(exchange: Exchange) -> None:
        await stream(exchange, exchange.rest[:1], is_whole=False)
        exchange.reset()

    async with FaultServer([one_word] * 7) as server, connect(server).stream(COMPLETIONS, IDS_BODY) as chunks:
        assert "".join([part.text async for part in chunks]) == ANSWER
    assert chunks.result.resumes == 7
    assert [exchange.body["prompt"][2:] for exchange in server.exchanges][-1] == list(range(100, 107))
