"""A double of any kind over a fast model with closed-form logits, in the loop of the test."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.llm import LLM
from dcmodel.local import LocalDcModel
from dcmodel.loop import run
from lmql_backends.lmtp.server.openai.double import Double
from lmql_backends.lmtp.server.server import LMTPServer

openai = pytest.importorskip("openai")

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def model():
    made = LocalDcModel(loaded_fake(small_tokenizer()))
    made.info = replace(made.info, chat_template=TEMPLATE)
    yield made
    run(made.aclose())


@pytest.fixture(scope="session")
def llm(model):
    """The same model without a server."""
    return LLM.from_model(model)


@pytest.fixture
def serve(model):
    """``async with serve(double) as client``: the official client, which tries nothing again."""

    @contextlib.asynccontextmanager
    async def serving(double: Double, **options):
        async with (
            LMTPServer({"fake": model}, double=double) as server,
            openai.AsyncOpenAI(
                base_url=f"{server.http_url}/v1", api_key="none", **{"max_retries": 0, **options}
            ) as client,
        ):
            yield client

    return serving
