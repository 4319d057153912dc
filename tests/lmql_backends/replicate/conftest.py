"""A model behind the stand-in for Replicate, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from fakes.fake_engine import loaded_fake
from fakes.replicate_server import NAME, OWNER, TOKEN, ReplicateServer
from fakes.served import ServedModels
from fakes.small_tokenizer import small_tokenizer

from dcmodel.local import LocalDcModel
from dcmodel.model import DcModel
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.tokenizer_cache import TokenizerCache
from lmql_backends.replicate.api import Api
from lmql_backends.replicate.cog.predictor import Predictions
from lmql_backends.replicate.names import ModelName
from lmql_backends.replicate.opening import RETRY
from lmql_backends.replicate.settings import Settings
from lmql_backends.replicate.transport import ReplicateConnector

Open = Callable[..., Awaitable[LMTPDcModel]]


@pytest_asyncio.fixture
async def local() -> AsyncIterator[DcModel]:
    """What the predictor serves, to compare with."""
    model = LocalDcModel(loaded_fake(small_tokenizer()))
    yield model
    await model.aclose()


@pytest_asyncio.fixture
async def server(local: DcModel) -> AsyncIterator[ReplicateServer]:
    predictions = Predictions(ServedModels({"fake": local}))
    async with ReplicateServer(lambda fields: predictions.answers(**fields)) as running:
        yield running


def short(url: str, **options: Any) -> Settings:
    """Settings that wait for nothing."""
    return Settings(**{"token": TOKEN, "base_url": url, "base": 0.001, "cap": 0.01, **options})


@pytest_asyncio.fixture
async def open_model(server: ReplicateServer, tmp_path: Any) -> AsyncIterator[Open]:
    """Opens models in the test's own loop; they are asked nothing before the test asks."""
    opened: list[LMTPDcModel] = []

    async def open_one(**options: Any) -> LMTPDcModel:
        import asyncio

        settings = short(server.url, **options)
        api = Api(settings)
        target = await api.resolve(ModelName(OWNER, NAME))
        connector = ReplicateConnector("replicate:ours/tiny", api, target, settings)
        model = await LMTPDcModel.open(
            connector, loop=asyncio.get_running_loop(), retry=RETRY, cache=TokenizerCache(tmp_path)
        )
        opened.append(model)
        server.created.clear()
        server.streams.clear()
        return model

    yield open_one
    for model in opened:
        await model.aclose()


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user's own environment has is of no concern here."""
    for name in ("REPLICATE_API_TOKEN", "REPLICATE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
