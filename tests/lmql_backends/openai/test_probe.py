"""A probe finds what the double is set to do, and not what it says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from fakes.fake_engine import loaded_fake
from fakes.openai_models import transport_to
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.errors import CapabilityError, ModelNotFoundError
from dcmodel.local import LocalDcModel
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.capabilities import UNLIMITED, GrammarKind, SamplingField, Support, in_words
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe import probe
from lmql_backends.openai.probe_cache import ProbeCache


@pytest.fixture
def probed(local):
    """The capabilities found at a double with these limits."""

    async def of(chat: bool | None = None, model: str = "fake", **limits: Any):
        async with serving(local, limits) as url:
            transport = transport_to(url)
            try:
                return await probe(transport, model, small_tokenizer(), chat=chat)
            finally:
                await transport.aclose()

    return of


@asynccontextmanager
async def serving(local, limits: Mapping[str, Any]):
    double = Double(limits_from(limits))
    async with LMTPServer({"fake": local}, double=double) as server:
        yield f"{server.http_url}/v1"


async def test_an_endpoint_that_keeps_nothing_back(probed) -> None:
    able = await probed(preset="open")
    assert not able.is_chat
    assert able.token_id_prompts
    assert able.list_prompts
    assert able.continuation
    assert able.max_bias_entries == UNLIMITED
    assert able.raw_logprobs is True
    assert able.max_top_logprobs == 1000
    assert able.sampling_fields == set(SamplingField)
    assert not able.unasked
    assert able.allowed_token_ids
    assert able.echo_scoring
    assert able.prompt_logprobs
    assert able.returns_token_ids
    assert able.tokens_as_ids
    assert able.seed
    assert able.usage_in_streams
    kinds = {kind for kind in GrammarKind if able.honours(kind)}
    assert kinds == set(GrammarKind) - {GrammarKind.EBNF}


async def test_openais_completions(probed) -> None:
    able = await probed()
    assert able.max_bias_entries == 300
    assert able.max_top_logprobs == 5
    assert able.raw_logprobs is True
    assert able.token_id_prompts
    assert not able.allowed_token_ids
    assert not able.prompt_logprobs
    assert not able.echo_scoring
    assert not able.returns_token_ids
    assert able.grammars[GrammarKind.REGEX].support is Support.REFUSED


async def test_openais_chat(probed) -> None:
    able = await probed(chat=True)
    assert able.is_chat
    assert not able.continuation
    assert able.max_top_logprobs == 20
    assert able.max_bias_entries == 300
    assert able.honours(GrammarKind.JSON_SCHEMA)


async def test_vllms_chat_goes_on_from_a_part_of_an_answer(probed) -> None:
    able = await probed(chat=True, preset="vllm")
    assert (able.continuation, able.continuation_style) == (True, "continue_final_message")
    assert able.returns_token_ids


AS_WRITTEN = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.role == 'user' %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
WITH_A_BLANK = AS_WRITTEN.replace("}}:{{", "}}: {{")


@pytest.mark.parametrize(("template", "expected"), [(AS_WRITTEN, True), (WITH_A_BLANK, False)])
async def test_a_template_that_changes_a_begun_answer_is_found_out(template, expected) -> None:
    made = LocalDcModel(loaded_fake(small_tokenizer()))
    made.info = replace(made.info, chat_template=template)
    async with serving(made, {"preset": "vllm"}) as url:
        transport = transport_to(url)
        able = await probe(transport, "fake", small_tokenizer(), chat=True)
        await transport.aclose()
    assert able.continuation
    assert able.exact_continuation is expected
    words = in_words(able)["continues a part of an answer"]
    assert ("perhaps not as it was written" in words) is not expected


async def test_what_a_template_may_change_is_not_called_exact(local, tmp_path) -> None:
    """The model's template puts a blank before a begun answer."""
    limits = {"grammars": {}, "other_grammars": "refused", "allowed_token_ids": "refused"}
    async with serving(local, {"preset": "vllm", **limits}) as url:
        options = {"base_url": url, "api_key": "key", "tokenizer": small_tokenizer(), "chat": True}
        model = await open_model("fake", options, probes=ProbeCache(tmp_path))
        try:
            llm = LLM.from_model(model)
            prompt = await llm.achat_prompt([{"role": "user", "content": "The quick"}])
            completion = await llm.agenerate(prompt, regex="[a-z]{12}", max_tokens=20)
            assert completion.certificate.valid
            assert completion.cost.requests > 1
            assert not completion.certificate.exact
            with pytest.raises(CapabilityError, match="a chat route shows no scores"):
                await llm.ascore(prompt, ["ab"])
        finally:
            await model.aclose()


async def test_llamacpps_chat_goes_on_unasked(probed) -> None:
    able = await probed(chat=True, preset="llamacpp")
    assert able.continuation


@pytest.mark.parametrize("support", list(Support))
async def test_a_grammar_is_honoured_refused_or_ignored(probed, support) -> None:
    grammars = {name: str(support) for name in ("structured_outputs.regex", "regex", "guided_regex")}
    able = await probed(preset="open", grammars=grammars)
    assert able.grammars[GrammarKind.REGEX].support is support
    assert able.honours(GrammarKind.CHOICE)


@pytest.mark.parametrize(("mode", "expected"), [("raw", True), ("processed", False), ("none", None)])
async def test_log_probabilities_are_those_before_or_after_the_bias(probed, mode, expected) -> None:
    able = await probed(preset="open", logprobs=mode)
    assert able.raw_logprobs is expected
    assert able.shows_logprobs == (mode != "none")


@pytest.mark.parametrize("support", ["refused", "ignored"])
async def test_what_is_ignored_counts_as_missing(probed, support) -> None:
    able = await probed(
        preset="open", allowed_token_ids=support, prompt_logprobs=support, token_ids=support, seed=support
    )
    assert not able.allowed_token_ids
    assert not able.prompt_logprobs
    assert not able.returns_token_ids
    assert not able.seed


async def test_limits_of_an_endpoint_are_found(probed) -> None:
    able = await probed(preset="open", max_bias_entries=37, max_text_logprobs=20, token_id_prompts=False)
    assert able.max_bias_entries == 37
    assert able.max_top_logprobs == 20
    assert not able.token_id_prompts


async def test_biases_that_are_refused_are_none(probed) -> None:
    assert (await probed(preset="open", max_bias_entries=0)).max_bias_entries == 0


async def test_an_unknown_model_is_an_error(probed) -> None:
    with pytest.raises(ModelNotFoundError):
        await probed(model="nobody")
