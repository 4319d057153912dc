"""Faults of streams, as the official client sees them."""

from __future__ import annotations

import asyncio
import json

import pytest
from fakes.served import ServedModels

from lmql_backends.lmtp.server.contracts import HttpRequest
from lmql_backends.lmtp.server.openai import openai_routes
from lmql_backends.lmtp.server.openai.double import Double, plan_from

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

# The SDK leaves connections of streams that were cut or left to the garbage collector, whenever that comes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FIELDS = {"model": "fake", "prompt": "a", "max_tokens": 40, "temperature": 1, "seed": 4}


def double_with(*faults) -> Double:
    return Double(plan=plan_from({"faults": list(faults)}))


async def stream_of(serve, *faults, **fields):
    """The chunks that arrive, and the error after them."""
    chunks, error = [], None
    async with serve(double_with(*faults)) as client:
        stream = await client.completions.create(**{**FIELDS, **fields}, stream=True)
        try:
            async for chunk in stream:
                chunks.append(chunk)
        except Exception as caught:  # which ones, the tests say
            error = caught
    return chunks, error


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


async def raw_stream(serve, *faults, **fields) -> list[bytes]:
    """The pieces of the body as they came."""
    async with serve(double_with(*faults)) as client:
        url = f"{client.base_url}completions"
        async with (
            httpx.AsyncClient() as plain,
            plain.stream("POST", url, json={**FIELDS, **fields, "stream": True}) as response,
        ):
            return [piece async for piece in response.aiter_raw()]


@pytest.fixture
async def whole(serve):
    chunks, error = await stream_of(serve)
    assert error is None
    text = text_of(chunks)
    assert any(len(character.encode()) > 1 for character in text), "the text must have characters to split"
    return text


MANNERS = [
    [{"fault": "comments"}],
    [{"fault": "split"}],
    [{"fault": "split", "size": 7, "crlf": True}],
    [{"fault": "split", "size": 1, "crlf": True}, {"fault": "comments", "text": "OPENROUTER PROCESSING"}],
    [{"fault": "merged", "tokens": 3}],
    [{"fault": "empty_chunk"}],
    [{"fault": "no_done"}],
]


@pytest.mark.parametrize("faults", MANNERS, ids=lambda faults: "+".join(fault["fault"] for fault in faults))
async def test_manners_of_servers_do_not_change_the_text(serve, whole, faults):
    chunks, error = await stream_of(serve, *faults)
    assert error is None
    assert text_of(chunks) == whole
    assert chunks[-1].choices[0].finish_reason


async def test_manners_look_as_they_should(serve):
    data = {
        name: b"".join(await raw_stream(serve, {"fault": name, **more}))
        for name, more in {"comments": {}, "split": {"crlf": True}, "empty_chunk": {}, "no_done": {}}.items()
    }
    assert data["comments"].startswith(b": ping\n\ndata: {")
    assert b"\r\n\r\ndata: " in data["split"]
    assert b"\n" not in data["split"].replace(b"\r\n", b"")
    assert b'"choices":[]' in data["empty_chunk"].partition(b"\n\n")[0]
    assert b"[DONE]" not in data["no_done"]
    assert data["comments"].endswith(b"data: [DONE]\n\n")


async def test_merged_events_hold_the_same_tokens_and_log_probabilities(serve):
    fields = {"logprobs": 2}
    single, _ = await stream_of(serve, **fields)
    merged, _ = await stream_of(serve, {"fault": "merged", "tokens": 3}, **fields)

    def tokens(chunks, name):
        return [
            item for c in chunks if c.choices[0].logprobs for item in getattr(c.choices[0].logprobs, name)
        ]

    assert text_of(merged) == text_of(single)
    assert max(len(c.choices[0].logprobs.tokens) for c in merged if c.choices[0].logprobs) == 3
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert tokens(merged, name) == tokens(single, name)


async def test_merged_events_of_chats_hold_the_same_text(serve):
    fields = {
        "model": "fake",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 20,
        "temperature": 0,
        "n": 2,
        "logprobs": True,
    }
    said = []
    for faults in ([], [{"fault": "merged", "tokens": 4}]):
        async with serve(double_with(*faults)) as client:
            stream = await client.chat.completions.create(**fields, stream=True)
            texts, counts = ["", ""], 0
            async for chunk in stream:
                choice = chunk.choices[0]
                texts[choice.index] += choice.delta.content or ""
                counts += len(choice.logprobs.content) if choice.logprobs else 0
            said.append((texts, counts))
    assert said[0] == said[1]


CUTS = [
    ({"fault": "stream_reset"}, openai.APIConnectionError),
    ({"fault": "stream_close"}, openai.APIConnectionError),
    ({"fault": "bad_event"}, json.JSONDecodeError),
    ({"fault": "error_event"}, openai.APIError),
    ({"fault": "error_event", "status": 429}, openai.APIError),
]


@pytest.mark.parametrize(
    ("fault", "kind"), CUTS, ids=lambda value: value.get("fault") if isinstance(value, dict) else ""
)
@pytest.mark.parametrize("after", [0, 3])
async def test_what_came_before_a_cut_arrives_and_then_the_error(serve, whole, fault, kind, after):
    chunks, error = await stream_of(serve, {**fault, "after": after})
    assert isinstance(error, kind)
    assert sum(bool(chunk.choices[0].text) for chunk in chunks) == after
    assert whole.startswith(text_of(chunks))


async def test_error_events_say_what_kind_they_are(serve):
    _, overloaded = await stream_of(serve, {"fault": "error_event", "status": 503})
    _, limited = await stream_of(serve, {"fault": "error_event", "status": 429})
    assert overloaded.code == "503"
    assert limited.code == "rate_limit_exceeded"


async def test_a_stream_that_just_ends_looks_whole_to_the_client(serve, whole):
    chunks, error = await stream_of(serve, {"fault": "stream_end", "after": 3})
    assert error is None
    assert len(text_of(chunks)) < len(whole)
    assert not any(chunk.choices[0].finish_reason for chunk in chunks)


async def test_a_stream_that_stalls_ends_with_the_clients_patience(serve, whole):
    double = double_with({"fault": "stall", "after": 2})
    async with serve(double, timeout=0.5) as client:
        stream = await client.completions.create(**FIELDS, stream=True)
        texts = [(await anext(stream)).choices[0].text for _ in range(2)]
        with pytest.raises(openai.APITimeoutError):
            await anext(stream)
    assert whole.startswith("".join(texts))


async def test_a_stall_holds_no_place_of_the_model_once_the_client_has_gone(serve, model):
    async with serve(double_with({"fault": "stall", "after": 1, "requests": ["1-40"]})) as client:
        for _ in range(40):  # more than the engine has sequences
            stream = await client.completions.create(**FIELDS, stream=True)
            await anext(stream)
            await stream.close()
        async with asyncio.timeout(30):
            answer = await client.completions.create(**FIELDS)
    assert answer.choices[0].text


async def test_a_body_that_nobody_reads_frees_the_model(model):
    models = ServedModels({"fake": model})
    routes = double_with({"fault": "split"}).wrap(openai_routes(models), models)
    body = json.dumps({**FIELDS, "stream": True}).encode()
    request = HttpRequest(method="POST", path="/v1/completions", body=body)
    response = await routes["POST", "/v1/completions"](request)
    assert models.users == 2  # the double, and the route behind it
    await response.body.aclose()
    assert models.users == 0
