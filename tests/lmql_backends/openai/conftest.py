"""Our own server over a fast model with closed-form logits, and models of the OpenAI backend over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from fakes.fake_engine import loaded_fake
from fakes.openai_models import OURS, TEMPLATE, transport_to
from fakes.small_tokenizer import small_tokenizer

from dcmodel.local import LocalDcModel
from dcmodel.types import ModelInfo
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.openai import openai_routes
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.asking import HttpAsker
from lmql_backends.openai.capabilities import EndpointCapabilities
from lmql_backends.openai.model import OpenAIDcModel


@pytest.fixture(scope="module")
def local():
    """The model behind the server."""
    made = LocalDcModel(loaded_fake(small_tokenizer()))
    made.info = replace(made.info, chat_template=TEMPLATE)
    return made


@pytest.fixture
async def url(local) -> AsyncIterator[str]:
    """Of a server that keeps nothing from its clients; it ends with ``/v1``."""
    models = StaticModels({"fake": local})
    async with LMTPServer(models, routes=openai_routes(models)) as server:
        yield f"{server.http_url}/v1"


@pytest.fixture
async def model_at() -> AsyncIterator[Callable[..., OpenAIDcModel]]:
    """Models with given capabilities, closed at the end."""
    async with AsyncExitStack() as stack:

        def at(base_url: str, capabilities: EndpointCapabilities = OURS, **options) -> OpenAIDcModel:
            asker = HttpAsker(transport_to(base_url), "fake", capabilities, small_tokenizer(), **options)
            info = ModelInfo(
                name="fake", backend="openai", vocab_size=small_tokenizer().vocab_size, max_positions=512
            )
            model = OpenAIDcModel(asker, info)
            stack.push_async_callback(model.aclose)
            return model

        yield at


@pytest.fixture
def model(url, model_at) -> OpenAIDcModel:
    """Of the server at `url`, with all that it can do."""
    return model_at(url)
