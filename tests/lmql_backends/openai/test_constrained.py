"""Constrained text through the whole way: planner, HTTP, our own server, and its manners as a double."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.constraints import Choice, Grammar, JsonSchema, MaskFunction, Regex
from dcmodel.types import GenerateRequest, SamplingParams
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache

PROMPT = tuple(small_tokenizer().encode("The quick brown fox"))
RULES = {
    "regex": Regex("[a-z]{3,8} [0-9]+(\\.[0-9])?"),
    "choice": Choice(["positive", "negative", "neutral", "none of these"]),
    "lark": Grammar('start: "<" /[a-z]+/ ">" (";" start)?'),
    "function": MaskFunction(lambda ids: range(60, 300) if len(ids) < 6 else [1]),
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ENDPOINTS = {
    "open": {"preset": "open"},
    "openai": {"preset": "openai"},
    "no grammars": {"preset": "open", "other_grammars": "ignored", "allowed_token_ids": "ignored"},
    "vllm": {"preset": "vllm"},
    "llamacpp": {"preset": "llamacpp"},
}


@pytest.fixture
def open_at(local, tmp_path):
    @asynccontextmanager
    async def opened(limits, **options):
        double = Double(limits_from(limits))
        async with LMTPServer({"fake": local}, double=double) as server:
            given = {"base_url": f"{server.http_url}/v1", "api_key": "key", "tokenizer": small_tokenizer()}
            model = await open_model("fake", {**given, **options}, probes=ProbeCache(tmp_path))
            try:
                yield model
            finally:
                await model.aclose()

    return opened


def request(constraint, **changes) -> GenerateRequest:
    return GenerateRequest(prompt_ids=PROMPT, constraint=constraint, **{"max_tokens": 40, **changes})


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("rule", RULES)
async def test_at_temperature_0_the_tokens_are_those_of_local_masks(open_at, local, endpoint, rule) -> None:
    asked = request(RULES[rule])
    ours = await local.generate(asked).completion()
    async with open_at(ENDPOINTS[endpoint]) as model:
        theirs = await model.generate(asked).completion()
        assert theirs.text == ours.text
        assert theirs.certificate.valid == ours.certificate.valid
        assert theirs.certificate.exact or "own grammar" in theirs.certificate.detail
        assert theirs.cost.requests <= 2 * len(theirs.token_ids)
        assert model.cost == theirs.cost


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_json_is_valid_and_parsed_wherever_it_comes_from(open_at, endpoint) -> None:
    async with open_at(ENDPOINTS[endpoint]) as model:
        sampling = SamplingParams(temperature=1.0, seed=3)
        completion = await model.generate(
            request(JsonSchema(SCHEMA), sampling=sampling, max_tokens=120)
        ).completion()
        if completion.certificate.valid:
            assert set(completion.parsed) == {"name", "age"}
        else:
            assert completion.finish_reason == "length"


async def test_a_stream_of_a_constrained_text_adds_up(open_at) -> None:
    async with open_at(ENDPOINTS["openai"]) as model:
        stream = model.generate(request(RULES["regex"]))
        text = "".join([step.text async for step in stream])
        assert text == (await stream.completion()).text


async def test_prompts_are_healed_where_ids_are_taken(open_at, local) -> None:
    async with open_at(ENDPOINTS["open"]) as model:
        assert model.can_heal
        theirs = await LLM.from_model(model).agenerate("The quick bro", max_tokens=6)
        ours = await LLM.from_model(local).agenerate("The quick bro", max_tokens=6)
        assert theirs.text == ours.text


async def test_a_healed_text_is_free_behind_what_was_healed(open_at, local) -> None:
    async with open_at(ENDPOINTS["open"]) as model:
        stream = model.generate(request(None, healed="bro", max_tokens=200))
        steps = [step async for step in stream]
        theirs = await stream.completion()
    ours = await local.generate(request(None, healed="bro", max_tokens=200)).completion()
    assert theirs.text == ours.text == "".join(step.text for step in steps)
    assert theirs.usage.cached_tokens <= theirs.usage.prompt_tokens
    assert theirs.certificate.exact


async def test_a_chat_without_continuation_is_constrained_too(open_at) -> None:
    async with open_at(ENDPOINTS["openai"], chat=True) as model:
        llm = LLM.from_model(model)
        prompt = await llm.achat_prompt([{"role": "user", "content": "yes or no"}])
        completion = await llm.agenerate(prompt, json_schema=SCHEMA, max_tokens=100)
        assert completion.certificate.valid or completion.finish_reason == "length"
