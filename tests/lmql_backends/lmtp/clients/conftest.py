"""A fake model, a server before it, and clients of that."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.local import LocalDcModel
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.websocket import WebSocketConnector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.retry import RetryPolicy
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.tokenizer_cache import TokenizerCache

RETRY = RetryPolicy(seconds=20.0, base=0.001, cap=0.01, max_losses=8)


@pytest.fixture
async def local() -> AsyncIterator[LocalDcModel]:
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


@pytest.fixture
async def server(local) -> AsyncIterator[LMTPServer]:
    async with LMTPServer({"fake": local}) as server:
        yield server


@pytest.fixture
async def connect(tmp_path):
    """Opens models at a port of this machine and closes them after the test."""
    opened: list[LMTPDcModel] = []

    async def open_one(port: int, *, retry: RetryPolicy = RETRY, name: str = "", **options) -> LMTPDcModel:
        connector = WebSocketConnector(Address("127.0.0.1", port), **options)
        model = await LMTPDcModel.open(connector, name, retry=retry, cache=TokenizerCache(tmp_path))
        opened.append(model)
        return model

    yield open_one
    for model in opened:
        await model.aclose()
