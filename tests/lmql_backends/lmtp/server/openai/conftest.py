"""One server over fast models with closed-form logits, and the official client against it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.llm import LLM
from dcmodel.local import LocalDcModel
from dcmodel.loop import run

sys.path.insert(0, str(Path(__file__).parent))

import openai_server

openai = pytest.importorskip("openai")

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def models():
    """``fake`` has a chat template, ``plain/text`` has none."""
    chat = LocalDcModel(loaded_fake(small_tokenizer()))
    chat.info = replace(chat.info, chat_template=TEMPLATE)
    made = {"fake": chat, "plain/text": LocalDcModel(loaded_fake(small_tokenizer(), seed=1))}
    yield made
    for model in made.values():
        run(model.aclose())


@pytest.fixture(scope="module")
def server(models):
    with openai_server.running(models) as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def llm(models):
    """The same model without a server."""
    return LLM.from_model(models["fake"])
