"""LMQL's own client for Replicate, unmodified but for its host, against our predictor."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio
from conformance.requests import request, run_one
from fakes.replicate_server import NAME, OWNER, TOKEN

from dcmodel.types import ScoreRequest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("aiohttp_sse_client")
replicate_client = pytest.importorskip("lmql.models.lmtp.lmtp_replicate_client")

HOST = "https://api.replicate.com"


class Redirected:
    """A session of aiohttp's whose requests to Replicate's host go to the stand-in."""

    def __init__(self, session, url: str) -> None:
        self._session = session
        self._url = url

    def get(self, url: str, **options):
        return self._session.get(url.replace(HOST, self._url), **options)

    def post(self, url: str, **options):
        return self._session.post(url.replace(HOST, self._url), **options)

    def request(self, method: str, url, **options):
        return self._session.request(method, url, **options)


@pytest_asyncio.fixture
async def client(server, monkeypatch):
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    async with aiohttp.ClientSession() as session:
        yield replicate_client.LMTPReplicateClient(
            f"{OWNER}/{NAME}", Redirected(session, server.url), "replicate:"
        )


async def test_it_generates_what_the_model_generates(client, local):
    ids = local.tokenizer.encode_prompt("The quick brown fox")
    items = [item async for item in client.generate(ids, max_tokens=8, temperature=0.0, top_logprobs=1)]
    expected = await run_one(local, request(local, "The quick brown fox", max_tokens=8))
    assert tuple(item["token"] for item in items) == expected.token_ids
    assert items[-1]["finish_reason"] is not None


async def test_it_scores(client, local):
    ids = local.tokenizer.encode_prompt("yes")
    items = [item async for item in client.score(ids, [40, 41, 42])]
    expected = await local.score(ScoreRequest(prompt_ids=tuple(ids), continuations=((40, 41, 42),)))
    assert [item["logprob"] for item in items] == pytest.approx(expected.continuations[0].logprobs)


async def test_it_is_told_what_the_model_is(client):
    info = await asyncio.wait_for(client.request("MODEL_INFO", {"model": "ours"}), 20)
    assert info["model_info"]["name"]
