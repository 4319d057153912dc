"""OpenAI's own names and Azure's addresses: what is known without asking, and what is asked to be sure."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import shutil
from pathlib import Path

import pytest
from fakes.fault_server import ANSWER, Action, Exchange, FaultServer

from dcmodel.errors import SetupError
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer, from_tiktoken
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache

DATA = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
ENCODING = "cl100k_base"


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """tiktoken without a network; its folder of files, which is empty."""
    registry = pytest.importorskip("tiktoken.registry")
    folder = tmp_path / "tiktoken"
    folder.mkdir()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delitem(registry.ENCODINGS, ENCODING, raising=False)
    return folder


@pytest.fixture
def with_files(offline, monkeypatch) -> None:
    """What tiktoken would have downloaded lies in its folder."""
    packed = DATA / f"{ENCODING}.tiktoken.gz"
    if not packed.exists():
        pytest.skip(f"{packed.name} is not in the shared data folder")
    from tiktoken_ext import openai_public

    addresses = []
    with monkeypatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda url, **_: addresses.append(url) or {})
        openai_public.cl100k_base()
    target = offline / hashlib.sha1(addresses[0].encode()).hexdigest()
    with gzip.open(packed) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


async def opened(local, tmp_path, name) -> None:
    """Open and close a model of this name, at an endpoint that is as OpenAI's."""
    async with LMTPServer({name: local}, double=Double(limits_from({}))) as server:
        options = {"base_url": f"{server.http_url}/v1", "api_key": "key", "chat": False}
        model = await open_model(name, options, probes=ProbeCache(tmp_path))
        await model.aclose()


def counting(tokenizer: Tokenizer) -> Action:
    """An endpoint that says one word, and how many tokens its prompt was; it takes texts only."""

    async def action(exchange: Exchange) -> None:
        prompt = exchange.body.get("prompt")
        if exchange.method == "GET":
            await exchange.error(404)
        elif not isinstance(prompt, str) or set(exchange.body) & {"logprobs", "logit_bias"}:
            await exchange.error(400, "only texts, and no logprobs and logit_bias")
        else:
            usage = {"prompt_tokens": len(tokenizer.encode(prompt)), "completion_tokens": 1}
            choice = {"index": 0, "text": " word", "finish_reason": "length"}
            if exchange.body.get("stream"):
                await exchange.begin_stream()
                await exchange.event({"choices": [choice]})
                await exchange.event({"choices": [], "usage": usage})
                await exchange.piece(b"data: [DONE]\n\n")
                await exchange.end_stream()
            else:
                await exchange.answer(200, {"choices": [choice], "usage": usage})

    return action


async def test_an_encoding_by_name_is_confirmed_by_the_endpoints_counts(with_files, tmp_path) -> None:
    theirs = await asyncio.to_thread(from_tiktoken, ENCODING)
    async with FaultServer(otherwise=counting(theirs)) as server:
        options = {"base_url": server.base_url, "api_key": "key", "chat": False}
        model = await open_model("gpt-4-1106-preview", options, probes=ProbeCache(tmp_path))
        prompt = tuple(model.tokenizer.encode("Hello"))
        completion = await model.generate(GenerateRequest(prompt_ids=prompt, max_tokens=1)).completion()
        await model.aclose()
    assert model.tokenizer.fingerprint == theirs.fingerprint
    assert model.info.details["tokenizer"] == f"tiktoken's {ENCODING}, by the model's name"
    assert completion.token_ids == tuple(theirs.encode(" word"))


async def test_a_name_that_misleads_is_found_out(with_files, local, tmp_path) -> None:
    with pytest.raises(SetupError, match=f"tokenizer '.*{ENCODING}.*another model's"):
        await opened(local, tmp_path, "gpt-4-of-my-own")


async def test_without_files_the_error_says_where_they_belong(offline, local, tmp_path) -> None:
    with pytest.raises(SetupError, match="TIKTOKEN_CACHE_DIR"):
        await opened(local, tmp_path, "gpt-4-turbo")


async def test_azure_is_asked_at_its_deployments(monkeypatch, local) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
    async with FaultServer() as server:
        options = {
            "azure": True,
            "azure_endpoint": server.base_url.removesuffix("/v1"),
            "api_version": "2026-01-01",
            "api_key": "secret",
            "chat": True,
            "probe": False,
            "tokenizer": local.tokenizer,
        }
        model = await open_model("deployed", options)
        prompt = tuple(model.tokenizer.encode("Say"))
        completion = await model.generate(GenerateRequest(prompt_ids=prompt, max_tokens=200)).completion()
        await model.aclose()
    assert completion.text == ANSWER
    *_, asked = server.exchanges
    assert asked.path == "/openai/deployments/deployed/chat/completions?api-version=2026-01-01"
    assert asked.headers["api-key"] == "secret"
    assert "authorization" not in asked.headers
    assert asked.body["messages"] == [{"role": "user", "content": "Say"}]
    assert {item.path.partition("?")[0] for item in server.exchanges[:-1]} <= {"/openai/models"}
