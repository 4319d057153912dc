"""Models by name: addresses of servers, and children."""

from __future__ import annotations

import asyncio
import sys

import pytest
from conformance.requests import PROMPTS

from dcmodel import LLM
from dcmodel.errors import ConnectionLostError, InvalidRequestError, MissingDependencyError
from dcmodel.registry import Registry
from lmql_backends.lmtp.backend import BACKEND, PROCESS_BACKEND
from lmql_backends.lmtp.clients.address import DEFAULT_PORT, Address
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings
from lmql_backends.lmtp.tokenizer_cache import TokenizerCache


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("lmtp://localhost:81", Address("localhost", 81)),
        ("lmtp://localhost", Address("localhost", DEFAULT_PORT)),
        ("lmtps://a.example:81/org/name", Address("a.example", 81, "org/name", is_secure=True)),
        ("lmtp://[::1]:81/a%20b/", Address("::1", 81, "a b")),
    ],
)
def test_addresses(text, address):
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://a:1", "scheme"),
        ("lmtp://", "no host"),
        ("lmtp://a:b", "[Pp]ort"),
        ("lmtp://a:1?b", "behind"),
        ("lmtp://user:secret@a:1", "token"),
    ],
)
def test_wrong_addresses_are_explained(text, why):
    with pytest.raises(InvalidRequestError, match=why) as caught:
        Address.parse(text)
    assert "secret" not in str(caught.value)


def test_names_choose_their_backends():
    assert BACKEND.claims("lmtp://a:1")
    assert BACKEND.claims("lmtps://a:1/b")
    assert not BACKEND.claims("a")
    assert PROCESS_BACKEND.claims("process:a.gguf")
    names = Registry().names()
    assert {"lmtp", "process"} <= set(names)
    assert Registry().choose("lmtp://a:1").backend == "lmtp"
    assert Registry().choose("process:").backend == "process"


async def test_an_address_is_a_model(monkeypatch, tmp_path, local):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = await LLM.from_model(local).agenerate(PROMPTS[0], max_tokens=9)
    async with LMTPServer({"fake": local}, settings=ServerSettings(token="a-secret-token")) as server:
        for extra in ({"token": "a-secret-token"}, {"token": "a-secret-token", "codec": "json"}):
            async with LLM(f"{server.url}/fake", extra=extra) as llm:
                found = await llm.agenerate(PROMPTS[0], max_tokens=9)
                assert (found.text, found.token_ids) == (expected.text, expected.token_ids)
                assert (await llm.achoose("yes", [" no", " maybe"])).text in (" no", " maybe")
        monkeypatch.setenv("DCMODEL_TOKEN", "a-secret-token")
        async with LLM(server.url) as llm:
            assert await asyncio.to_thread(lambda: llm.info) == local.info
        for options, why in (
            ({"kv_tokens": 5}, "kv_tokens"),
            ({"extra": {"wrong": 1}}, "wrong"),
            ({"extra": {"codec": "xml"}}, "xml"),
            ({"extra": {"reconnect_seconds": -1}}, "reconnect_seconds"),
        ):
            with pytest.raises(InvalidRequestError, match=why):
                await LLM(server.url, **options).agenerate("yes")
    with pytest.raises(ConnectionLostError, match="dcmodel serve"):
        await LLM(server.url).agenerate("yes")


async def test_a_tokenizer_is_asked_for_once(tmp_path, local, server, connect):
    model = await connect(server.port)
    (file,) = tmp_path.iterdir()
    written = file.read_bytes()
    again = await connect(server.port)
    text = "émoji 🐢 and 漢字"
    assert again.tokenizer.encode(text) == model.tokenizer.encode(text) == local.tokenizer.encode(text)
    assert again.tokenizer.eos_token_ids == local.tokenizer.eos_token_ids
    file.write_bytes(written[: len(written) // 2])  # a broken file counts as missing
    assert (await connect(server.port)).tokenizer.fingerprint == local.tokenizer.fingerprint
    assert file.read_bytes() == written


async def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, local, server):
    (tmp_path / "file").write_text("")
    connector = WebSocketConnector(Address("127.0.0.1", server.port))
    cache = TokenizerCache(tmp_path / "file" / "folder")
    async with await LMTPDcModel.open(connector, cache=cache) as model:
        assert model.tokenizer.fingerprint == local.tokenizer.fingerprint


def test_without_websockets_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    with pytest.raises(MissingDependencyError, match=r"dcmodel\[lmtp\]"):
        WebSocketConnector(Address("a", 1))
