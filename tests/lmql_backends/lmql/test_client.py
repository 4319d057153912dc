"""LMQL's own websocket client, unmodified, against our server: what makes it hang, or get wrong tokens."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("aiohttp", reason="aiohttp, which LMQL's client needs, is not installed")

import aiohttp
from fakes.fake_engine import loaded_fake
from fakes.legacy_server import legacy_server
from fakes.served import ServedModels
from fakes.small_tokenizer import small_tokenizer

from dcmodel.local import LocalDcModel

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(60)]
PROMPT = [0, 50, 60, 70]
NO_END = {1: -100}


@pytest.fixture(scope="module")
def loaded():
    return loaded_fake(small_tokenizer())


@pytest.fixture(scope="module")
def models(loaded):
    model = LocalDcModel(loaded)
    yield ServedModels({"fake": model})
    asyncio.run(model.aclose())


@pytest.fixture(scope="module")
def address(models):
    with legacy_server(models) as address:
        yield address


@asynccontextmanager
async def connected(lmql, address: str, name: str = "fake"):
    from lmql.models.lmtp.lmtp_client import LMTPWebSocketClient

    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{address}") as socket:
        client = LMTPWebSocketClient(name, socket)
        client.connect()
        yield client
        await socket.close()
        await client.handler


@pytest.fixture
async def client(lmql, address):
    async with connected(lmql, address) as client:
        yield client


async def tokens(stream) -> list[int]:
    return [item["token"] async for item in stream]


async def test_each_stream_has_its_own_length(client):
    counts = (20, 2, 7, 3, 20, 5)
    streams = [client.generate([*PROMPT, 40 + n], max_tokens=n, logit_bias=NO_END) for n in counts]
    found = await asyncio.gather(*map(tokens, streams))
    assert [len(item) for item in found] == list(counts)


async def test_a_long_stream_arrives_whole(client):
    assert len(await tokens(client.generate(PROMPT, max_tokens=300, logit_bias=NO_END))) == 300


async def test_scores_come_in_order(client):
    found = [item async for item in client.score(PROMPT, [40, 41, 42])]
    assert [item["token"] for item in found] == [40, 41, 42]


async def test_errors_are_raised_and_spare_the_neighbours(client):
    from lmql.models.lmtp.errors import LMTPStreamError

    good = asyncio.create_task(tokens(client.generate(PROMPT, max_tokens=30, logit_bias=NO_END)))
    for bad in (
        client.generate([100_000], max_tokens=2),
        client.generate(PROMPT, max_tokens=0),
        client.generate(PROMPT, max_tokens=2, logit_bias={99_999: 100}),
        client.score(PROMPT, [100_000]),
        client.score(PROMPT, []),
    ):
        with pytest.raises(LMTPStreamError):
            await tokens(bad)
    assert len(await good) == 30


async def test_an_unknown_model_answers(lmql, address):
    from lmql.models.lmtp.errors import LMTPStreamError

    async with connected(lmql, address, "elsewhere/model") as client:
        with pytest.raises(LMTPStreamError, match="is not served"):
            await tokens(client.generate(PROMPT, max_tokens=2))
        with pytest.raises(LMTPStreamError, match="is not served"):
            await tokens(client.score(PROMPT, [40]))
        assert (await client.request("MODEL_INFO", {}))["model_info"] == "<unavailable>"


async def test_a_late_error_ends_the_stream_and_is_raised_by_the_next(client, loaded):
    from lmql.models.lmtp.errors import LMTPStreamError

    whole = await tokens(client.generate([0, 99], max_tokens=12, logit_bias=NO_END))
    loaded.engine.nan_token = whole[6]
    try:
        assert await tokens(client.generate([0, 99], max_tokens=12, logit_bias=NO_END)) == whole[:7]
        with pytest.raises(LMTPStreamError, match="NaN"):
            await tokens(client.generate([0, 99, *whole[:7]], max_tokens=12, logit_bias=NO_END))
    finally:
        loaded.engine.nan_token = -1


async def test_a_frame_of_a_large_mask_arrives(client):
    mask = {1: -100, **{200_000 + n: -100 for n in range(60_000)}}
    assert len(await tokens(client.generate(PROMPT, max_tokens=3, logit_bias=mask))) == 3


async def test_a_client_that_goes_away_frees_its_places(lmql, address, models):
    async with connected(lmql, address) as client:
        stream = client.generate(PROMPT, max_tokens=400, temperature=1.0, logit_bias=NO_END)
        await anext(stream)
        assert models.users == 1
    async with connected(lmql, address) as client:
        await tokens(client.generate(PROMPT, max_tokens=1))
        assert models.users == 0
