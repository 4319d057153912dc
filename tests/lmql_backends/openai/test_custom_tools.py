"""OpenAI's custom tools as grammars, end to end: found by the probe, sent, read, and verified."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from fakes.openai_models import transport_to
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.constraints import Choice, Grammar, Regex
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.bodies import grammar_fields
from lmql_backends.openai.capabilities import GrammarKind, GrammarSupport, Support
from lmql_backends.openai.custom_tools import tool_input
from lmql_backends.openai.endpoint_api import ServerGrammar
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe import probe
from lmql_backends.openai.probe_cache import ProbeCache

RULES = {
    "regex": Regex("[a-f]{3,8} [0-9]+"),
    "lark": Grammar('start: "<" /[a-f]{1,5}/ ">" (";" start)?'),
    "choice by lark": Choice(["yes, it is", "yes, it was", "no, never"]),
}


@pytest.fixture
def chat_at(local, tmp_path):
    @asynccontextmanager
    async def opened():
        double = Double(limits_from({"preset": "openai"}))
        async with LMTPServer({"fake": local}, double=double) as server:
            given = {"base_url": f"{server.http_url}/v1", "api_key": "key", "tokenizer": small_tokenizer()}
            model = await open_model("fake", {**given, "chat": True}, probes=ProbeCache(tmp_path))
            try:
                yield model
            finally:
                await model.aclose()

    return opened


@pytest.mark.parametrize("support", ["honoured", "refused", "ignored"])
async def test_the_probe_finds_what_becomes_of_a_tool(local, support) -> None:
    grammars = {"json_schema": "honoured", "custom_tool.lark": support, "custom_tool.regex": support}
    able = await probed(local, chat=True, grammars=grammars)
    for kind in (GrammarKind.REGEX, GrammarKind.LARK):
        known = able.grammars[kind]
        assert known.support is Support(support)
        assert known.field == ("" if support == "refused" else f"custom_tool.{kind}")


async def test_completions_have_no_tools(local) -> None:
    able = await probed(local, chat=False)
    assert not able.honours(GrammarKind.REGEX)
    assert not able.honours(GrammarKind.LARK)


async def probed(local, *, chat, **limits):
    double = Double(limits_from({"preset": "openai", **limits}))
    async with LMTPServer({"fake": local}, double=double) as server:
        transport = transport_to(f"{server.http_url}/v1")
        try:
            return await probe(transport, "fake", small_tokenizer(), chat=chat)
        finally:
            await transport.aclose()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_text_under_a_tools_grammar_is_one_request(chat_at, rule, temperature) -> None:
    async with chat_at() as model:
        llm = LLM.from_model(model)
        prompt = await llm.achat_prompt([{"role": "user", "content": "say it"}])
        options = {"constraint": RULES[rule], "temperature": temperature, "max_tokens": 60}
        completion = await llm.agenerate(prompt, **options)
    assert completion.certificate.valid or completion.finish_reason == "length"
    assert completion.cost.requests == 1
    assert not completion.certificate.exact, "the tool is in the prompt, which is another one then"
    assert "tool with the endpoint's own grammar" in completion.certificate.detail


async def test_a_tools_answer_can_be_read_as_a_stream(chat_at) -> None:
    async with chat_at() as model:
        llm = LLM.from_model(model)
        prompt = await llm.achat_prompt([{"role": "user", "content": "say it"}])
        stream = llm.astream(prompt, constraint=RULES["regex"], max_tokens=60)
        text = "".join([step.text async for step in stream])
        assert text == (await stream.completion()).text
        assert text


async def test_a_choice_that_one_biased_token_decides_needs_no_tool(chat_at) -> None:
    async with chat_at() as model:
        llm = LLM.from_model(model)
        prompt = await llm.achat_prompt([{"role": "user", "content": "say it"}])
        completion = await llm.agenerate(prompt, constraint=Choice(["yes", "no"]), max_tokens=60)
    assert completion.text in ("yes", "no")
    assert completion.certificate.exact
    assert completion.cost.requests == 1


def test_the_fields_are_those_of_openais_client() -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from pydantic import TypeAdapter

    for syntax in ("lark", "regex"):
        known = GrammarSupport(Support.HONOURED, f"custom_tool.{syntax}")
        fields = grammar_fields(ServerGrammar(GrammarKind(syntax), "start: /[0-9]/"), known)
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
        adapter = TypeAdapter(CompletionCreateParamsNonStreaming)
        assert adapter.dump_python(adapter.validate_python(body))["tool_choice"] == fields["tool_choice"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, ""),
        ({"tool_calls": None}, ""),
        ({"tool_calls": [{"type": "function", "function": {"arguments": "{}"}}]}, ""),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "answer", "input": "abc"}}]}, "abc"),
    ],
)
def test_the_input_of_the_first_custom_tool_is_the_text(message, expected) -> None:
    assert tool_input(message) == expected
