"""A server of others: llama-cpp-python's. It takes one text at a time, and breaks at what it cannot read."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from dcmodel import LLM
from dcmodel.registry import Registry
from dctokenizers import load
from lmql_backends.openai.capabilities import GrammarKind, Support
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache

NEEDED = ("llama_cpp", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings")
MISSING = [name for name in NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"llama-cpp-python's server needs {MISSING}")


@pytest.fixture(scope="module")
def gguf() -> str:
    return str(Registry().embedded_path("gguf"))


@pytest.fixture(scope="module")
def foreign_url(gguf) -> Iterator[str]:
    arguments = ["--model", gguf, "--port", "0", "--n_ctx", "512", "--logits_all", "true", "--n_threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"Uvicorn running on http://[^:]+:(\d+)", line)
            if found:
                break
        else:
            pytest.fail("the server did not start")
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        yield f"http://localhost:{found.group(1)}/v1"
        process.terminate()
        drain.join()


@pytest.fixture
async def foreign(foreign_url, gguf, tmp_path_factory):
    options = {"base_url": foreign_url, "tokenizer": load(gguf), "max_concurrent": 1, "chat": False}
    model = await open_model(gguf, options, probes=ProbeCache(tmp_path_factory.getbasetemp() / "probes"))
    yield model
    await model.aclose()


async def test_it_is_known_for_what_it_does(foreign, foreign_url, gguf, tmp_path) -> None:
    options = {"base_url": foreign_url, "tokenizer": foreign.tokenizer, "max_concurrent": 1, "chat": False}
    asked = await open_model(gguf, {**options, "probe": "refresh"}, probes=ProbeCache(tmp_path))
    able = asked.capabilities
    await asked.aclose()
    assert not able.token_id_prompts
    assert not able.list_prompts
    assert not able.allowed_token_ids
    assert able.echo_scoring
    assert able.max_bias_entries
    assert able.grammars[GrammarKind.REGEX].support is Support.IGNORED
    assert able.honours(GrammarKind.EBNF)


@pytest.mark.parametrize(
    "options", [{}, {"regex": " [0-9]+"}, {"choices": [" seven", " eight"]}], ids=["free", "regex", "choice"]
)
async def test_texts_are_those_of_the_model_in_process(foreign, options) -> None:
    with LLM() as local:
        expected = await local.agenerate("3 + 4 =", max_tokens=6, **options)
    found = await LLM.from_model(foreign).agenerate("3 + 4 =", max_tokens=6, **options)
    assert found.text == expected.text
    assert found.certificate.valid == expected.certificate.valid
