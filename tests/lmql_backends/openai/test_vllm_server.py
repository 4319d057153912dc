"""A server of others: vLLM's. It takes nearly everything; held against the model in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec

import pytest

from dcmodel import LLM
from dcmodel.constraints import Regex
from dcmodel.registry import Registry
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest
from dctokenizers import load
from lmql_backends.openai.capabilities import GrammarKind, SamplingField, Topic
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm runs this in its environment"
)
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
FLAGS = ["--dtype", "float32", "--enforce-eager", "--max-logprobs", "-1", "--served-model-name", "tiny"]


@pytest.fixture(scope="module")
def folder() -> str:
    return str(Registry().embedded_path())


@pytest.fixture(scope="module")
def url(folder) -> Iterator[str]:
    # vLLM does not say which port it got; so it is told one that was free just now.
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    with subprocess.Popen(
        [*program, "--host", "127.0.0.1", "--port", port, *FLAGS],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "Application startup complete" in line:
                break
        else:
            pytest.fail(f"the server did not start: {''.join(lines[-20:])}")
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        drain.join()


@pytest.fixture
async def foreign(url, folder, tmp_path_factory):
    options = {"base_url": url, "api_key": "none", "tokenizer": load(folder), "chat": False}
    probes = ProbeCache(tmp_path_factory.getbasetemp() / "vllm-probes")
    model = await open_model("tiny", options, probes=probes)
    yield model
    await model.aclose()


@pytest.fixture
async def local():
    async with LLM() as llm:
        await llm.agenerate("x", max_tokens=1)
        yield llm.model


def request(model, **changes) -> GenerateRequest:
    sampling = SamplingParams(**changes.pop("sampling", {}))
    prompt = tuple(model.tokenizer.encode_prompt("3 + 4 ="))
    return GenerateRequest(prompt_ids=prompt, sampling=sampling, **{"max_tokens": 12, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"top_logprobs": 3},
        {"ignore_eos": True, "max_tokens": 24},
        {"sampling": {"repetition_penalty": 1.3}},
        {"sampling": {"temperature": 1.0, "top_k": 1, "seed": 3}},
        {"sampling": {"temperature": 1.0, "min_p": 1.0, "seed": 3}},
        {"sampling": {"frequency_penalty": 1.0, "presence_penalty": 0.5}},
        {"stop": ("7",)},
    ],
    ids=str,
)
async def test_texts_are_those_of_the_model_in_process(foreign, local, changes) -> None:
    found = await foreign.generate(request(foreign, **changes)).completion()
    expected = await local.generate(request(local, **changes)).completion()
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert (found.finish_reason, found.stop_reason) == (expected.finish_reason, expected.stop_reason)
    for left, right in zip(found.logprobs, expected.logprobs, strict=True):
        assert left.raw_logprob == pytest.approx(right.raw_logprob, abs=1e-3)


async def test_a_constrained_text_is_valid_and_shows_nothing_that_it_does_not_know(foreign, local) -> None:
    rule = Regex(r" [0-9]{1,3}\.")
    found = await foreign.generate(request(foreign, constraint=rule)).completion()
    expected = await local.generate(request(local, constraint=rule)).completion()
    assert (found.text, found.certificate.valid) == (expected.text, True)
    assert foreign.capabilities.grammars[GrammarKind.REGEX].raw_logprobs is False
    assert all(item.raw_logprob != item.raw_logprob for item in found.logprobs)


async def test_scores_and_sessions_are_those_of_the_model_in_process(foreign, local) -> None:
    asked = ScoreRequest(
        prompt_ids=request(local).prompt_ids,
        continuations=tuple(tuple(local.tokenizer.encode(text)) for text in (" 7", " 11 is")),
    )
    found, expected = [await model.score(asked) for model in (foreign, local)]
    for left, right in zip(found.continuations, expected.continuations, strict=True):
        assert left.logprobs == pytest.approx(right.logprobs, abs=1e-3)
    sessions = [await model.session(request(model, ignore_eos=True)) for model in (foreign, local)]
    for mask in (None, None, [40, 41, 42], None):
        first, second = [await session.step(mask) for session in sessions]
        assert first.token_id == second.token_id


async def test_it_is_known_for_what_it_does(url, folder, tmp_path) -> None:
    options = {"base_url": url, "api_key": "none", "tokenizer": load(folder), "chat": False}
    model = await open_model("tiny", {**options, "probe": "refresh"}, probes=ProbeCache(tmp_path))
    able = model.capabilities
    await model.aclose()
    assert not able.unasked & set(Topic)
    assert able.sampling_fields == set(SamplingField)
    known = ("seed", "allowed_token_ids", "echo_scoring", "prompt_logprobs")
    shown = ("token_id_prompts", "list_prompts", "returns_token_ids")
    assert [name for name in (*known, *shown) if not getattr(able, name)] == []
    assert able.raw_logprobs is True
    assert {kind for kind in GrammarKind if able.honours(kind)} == set(GrammarKind) - {GrammarKind.CONSTRAINT}
