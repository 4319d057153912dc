"""An endpoint is asked what a request needs to know, when it needs it, and once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.errors import CapabilityError
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.server.openai.double import Double, limits_from
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.openai.capabilities import GRAMMAR_TOPICS, GrammarKind, SamplingField, Topic
from lmql_backends.openai.opening import open_model
from lmql_backends.openai.probe_cache import ProbeCache

PROMPT = tuple(small_tokenizer().encode("The quick"))
OPENAI = {"chat": False}
LIMITS = [
    ({"preset": "open"}, {}),
    ({}, OPENAI),
    ({}, {"chat": True}),
    ({"preset": "vllm"}, {}),
    ({"preset": "vllm"}, {"chat": True}),
    ({"preset": "llamacpp"}, {}),
    ({"preset": "llamacpp"}, {"chat": True}),
]


@asynccontextmanager
async def asked(local, tmp_path, limits, **options):
    """A model that was just opened, and all requests that its endpoint gets."""
    double = Double(limits_from(limits))
    async with LMTPServer({"fake": local}, double=double) as server:
        given = {"base_url": f"{server.http_url}/v1", "api_key": "key", "tokenizer": small_tokenizer()}
        model = await open_model("fake", {**given, **options}, probes=ProbeCache(tmp_path))
        try:
            yield model, double.records
        finally:
            await model.aclose()


def request(**changes) -> GenerateRequest:
    sampling = SamplingParams(**changes.pop("sampling", {}))
    return GenerateRequest(prompt_ids=PROMPT, sampling=sampling, max_tokens=4, **changes)


@pytest.mark.parametrize(("limits", "options"), LIMITS, ids=str)
async def test_a_first_text_takes_at_most_eight_requests(local, tmp_path, limits, options) -> None:
    async with asked(local, tmp_path, limits, **options) as (model, records):
        completion = await model.generate(request()).completion()
        assert completion.cost.requests == 1
        assert len(records) <= 8
        assert model.capabilities.unasked >= GRAMMAR_TOPICS


async def test_what_was_asked_once_is_known(local, tmp_path) -> None:
    warm = request(sampling={"temperature": 1.0, "seed": 3})
    async with asked(local, tmp_path, {"preset": "open"}) as (model, records):
        assert Topic.SEED in model.capabilities.unasked
        await asyncio.gather(*(model.generate(warm).completion() for _ in range(3)))
        assert model.capabilities.seed
        count = len(records)
        await model.generate(warm).completion()
        assert len(records) == count + 1


async def test_what_was_found_out_later_is_kept_too(local, tmp_path) -> None:
    probes = ProbeCache(tmp_path)
    double = Double(limits_from({"preset": "open"}))
    async with LMTPServer({"fake": local}, double=double) as server:
        given = {"base_url": f"{server.http_url}/v1", "api_key": "key", "tokenizer": small_tokenizer()}
        first = await open_model("fake", given, probes=probes)
        await first.generate(request(ignore_eos=True)).completion()
        await first.aclose()
        count = len(double.records)
        second = await open_model("fake", given, probes=probes)
        assert second.capabilities == first.capabilities
        assert SamplingField.IGNORE_EOS in second.capabilities.sampling_fields
        assert len(double.records) == count
        await second.aclose()


@pytest.mark.parametrize("support", ["refused", "ignored"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sampling": {"temperature": 1.0, "top_k": 3}}, "top_k=3"),
        ({"sampling": {"temperature": 1.0, "min_p": 0.3}}, "min_p=0.3"),
        ({"sampling": {"repetition_penalty": 1.3}}, "repetition_penalty=1.3"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"sampling": {"temperature": 1.0, "seed": 3}}, "seed=3"),
    ],
    ids=str,
)
async def test_what_is_found_missing_is_refused_by_name(local, tmp_path, support, changes, named) -> None:
    limits = {"preset": "open", "extra_fields": support, "seed": support}
    async with asked(local, tmp_path, limits) as (model, records):
        with pytest.raises(CapabilityError, match=named):
            await model.generate(request(**changes)).completion()
        count = len(records)
        with pytest.raises(CapabilityError, match=named):
            model.generate(request(**changes))
        with pytest.raises(CapabilityError, match=named):
            await model.session(request(**changes))
        assert len(records) == count


async def test_only_grammars_that_could_stand_for_the_rule_are_asked_about(local, tmp_path) -> None:
    limits = {"preset": "open", "grammars": {"constraint": "refused"}}
    async with asked(local, tmp_path, limits) as (model, _):
        completion = await model.generate(request(constraint=Regex("[a-c]{2}"))).completion()
        assert completion.certificate.valid
        able = model.capabilities
        assert able.honours(GrammarKind.REGEX)
        assert not able.honours(GrammarKind.CONSTRAINT)
        assert {Topic.JSON_SCHEMA, Topic.LARK, Topic.CHOICE} <= able.unasked


async def test_scores_and_sessions_ask_for_what_they_need(local, tmp_path) -> None:
    async with asked(local, tmp_path, {"preset": "open"}) as (model, _):
        result = await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=((5, 6),)))
        expected = await local.score(ScoreRequest(prompt_ids=PROMPT, continuations=((5, 6),)))
        assert result.continuations[0].logprobs == pytest.approx(expected.continuations[0].logprobs, abs=1e-5)
        session = await model.session(request())
        assert (await session.step([7, 8])).token_id in (7, 8)
        assert not {Topic.SCORES, Topic.ALLOWED} & model.capabilities.unasked


async def test_what_the_user_says_is_not_asked(local, tmp_path) -> None:
    said = {"seed": False, "sampling_fields": [], "grammars": {}}
    async with asked(local, tmp_path, {"preset": "open"}, capabilities=said) as (model, _):
        with pytest.raises(CapabilityError, match="seed=3"):
            model.generate(request(sampling={"temperature": 1.0, "seed": 3}))
        await model.generate(request(constraint=Regex("[a-c]{2}"))).completion()
        assert not model.capabilities.grammars


async def test_a_cancelled_question_is_asked_by_the_next_one(local, tmp_path) -> None:
    async with asked(local, tmp_path, {"preset": "open"}) as (model, _):
        warm = request(sampling={"temperature": 1.0, "seed": 3})
        first, second = model.generate(warm), model.generate(warm)
        await asyncio.sleep(0)
        first.cancel()
        assert (await second.completion()).token_ids
        assert model.capabilities.seed
