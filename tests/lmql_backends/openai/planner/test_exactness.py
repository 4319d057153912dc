"""What is drawn is what local masking draws, by every road, within the noise of sampling."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from fakes.api_model import BARE, OPENAI_COMPLETIONS, VLLM, ApiModel, Leaning, with_grammars
from fakes.fake_engine import FakeModel
from fakes.local_masking import noise, texts_of, total_variation
from fakes.planned import Planned
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Choice, Regex
from dcmodel.types import GenerateRequest, SamplingParams
from lmql_backends.openai.capabilities import GrammarKind

TOKENIZER = small_tokenizer()
PROMPT = tuple(TOKENIZER.encode("The quick brown"))
MODEL = FakeModel(TOKENIZER.vocab_size)
REGEX = Regex("(yes|no|maybe) ?[0-4]|[x-z]")
# 300 of the 384 tokens are about all of them: a limit that bites.
FEW = replace(OPENAI_COMPLETIONS, max_bias_entries=60)
ENDPOINTS = {
    "biases": OPENAI_COMPLETIONS,
    "few biases": FEW,
    "few biases, processed logprobs": replace(FEW, raw_logprobs=False),
    "few biases, five shown": replace(FEW, max_top_logprobs=5),
    "few biases, none shown": replace(FEW, max_top_logprobs=0, shows_logprobs=False),
    "no biases": replace(FEW, max_bias_entries=0),
    "streams": replace(FEW, list_prompts=False),
    "lists of ids": VLLM,
    "bare": BARE,
    "own grammar": with_grammars(FEW, GrammarKind.CONSTRAINT),
}


def request(constraint, **sampling) -> GenerateRequest:
    sampling = SamplingParams(**{"temperature": 1.0, **sampling})
    return GenerateRequest(prompt_ids=PROMPT, constraint=constraint, sampling=sampling, max_tokens=8)


async def check(api, asked, expected, draws) -> None:
    planned = Planned(api, window=2, largest_window=4, max_attempts=100_000)
    counts, completions = await planned.counts(asked, draws)
    assert all(item.certificate.exact for item in completions), completions[0].certificate
    assert all(item.certificate.valid or item.finish_reason == "length" for item in completions)
    assert total_variation(counts, expected) <= noise(expected, draws)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_texts_come_as_often_as_under_local_masks(endpoint) -> None:
    able = ENDPOINTS[endpoint]
    model = MODEL
    if not able.max_bias_entries:  # nothing is left but to draw until the mask is met
        model = Leaning(MODEL, TOKENIZER.encode("yesnomaybe 01234xyz"))
    expected = texts_of(model, TOKENIZER, PROMPT, REGEX)
    assert len(expected) > 20
    await check(
        ApiModel(model=model, tokenizer=TOKENIZER, capabilities=able), request(REGEX), expected, 1_500
    )


async def test_one_token_comes_as_often_as_under_a_mask_in_many_draws() -> None:
    expected = texts_of(MODEL, TOKENIZER, PROMPT, REGEX, max_tokens=1)
    asked = replace(request(REGEX), max_tokens=1)
    await check(ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=FEW), asked, expected, 20_000)


@pytest.mark.parametrize("temperature", [0.4, 0.8, 1.3])
@pytest.mark.parametrize("endpoint", ["few biases", "few biases, processed logprobs", "biases"])
async def test_other_temperatures_are_exact_too(endpoint, temperature) -> None:
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=ENDPOINTS[endpoint])
    expected = texts_of(MODEL, TOKENIZER, PROMPT, REGEX, max_tokens=4, temperature=temperature)
    asked = replace(request(REGEX, temperature=temperature), max_tokens=4)
    await check(api, asked, expected, 1_000)


@pytest.mark.parametrize("endpoint", ["biases", "lists of ids"])
async def test_top_p_acts_on_what_the_mask_leaves(endpoint) -> None:
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=ENDPOINTS[endpoint])
    expected = texts_of(MODEL, TOKENIZER, PROMPT, REGEX, top_p=0.6)
    await check(api, request(REGEX, top_p=0.6), expected, 1_000)


async def test_biases_and_penalties_of_the_caller_are_kept() -> None:
    bias = dict.fromkeys(TOKENIZER.encode("yno"), 1.5)

    def penalties(output):
        added = dict(bias)
        for token_id in set(output):
            added[token_id] = added.get(token_id, 0.0) - 0.5 - 0.3 * output.count(token_id)
        return added

    rule = Regex("[yno01]{4}")
    expected = texts_of(MODEL, TOKENIZER, PROMPT, rule, penalties=penalties)
    asked = request(rule, logit_bias=bias, presence_penalty=0.5, frequency_penalty=0.3)
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=FEW)
    await check(api, asked, expected, 2_000)


@pytest.mark.parametrize("endpoint", ["few biases", "lists of ids", "streams"])
async def test_choices_come_as_often_as_under_local_masks(endpoint) -> None:
    rule = Choice(["positive", "negative", "neutral", "no", "not at all", "none"])
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=ENDPOINTS[endpoint])
    expected = texts_of(MODEL, TOKENIZER, PROMPT, rule)
    await check(api, request(rule), expected, 1_500)


async def test_the_bound_of_a_local_correction_holds() -> None:
    able = replace(FEW, max_top_logprobs=8)
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=able)
    rule = Regex("[a-z ]+")
    asked = replace(request(rule), max_tokens=1)
    expected = texts_of(MODEL, TOKENIZER, PROMPT, rule, max_tokens=1)
    counts, completions = await Planned(api, window=1, max_variation=1.0).counts(asked, 4_000)
    bounds = [item.certificate.bound for item in completions if not item.certificate.exact]
    assert bounds
    assert all(item.certificate.bound is None for item in completions if item.certificate.exact)
    found = total_variation(counts, expected)
    assert found <= max(bounds) + noise(expected, 4_000)
    assert found > noise(expected, 4_000), "the bound is tried by a distribution that differs"
    assert {item.cost.requests for item in completions} == {1}


async def test_a_bound_that_is_too_large_leads_to_an_exact_step() -> None:
    able = replace(FEW, max_top_logprobs=8)
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=able)
    asked = replace(request(Regex("[a-z ]+")), max_tokens=1)
    completions = (await Planned(api, window=1, max_variation=1e-4).counts(asked, 100))[1]
    assert all(item.certificate.exact for item in completions)


async def test_the_same_seed_gives_the_same_text_and_others_give_others() -> None:
    texts = []
    for seed in (1, 1, 2, 3):
        api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=FEW, seed=len(texts))
        texts.append((await Planned(api).complete(request(Regex("[a-z ]{9,}"), seed=seed))).token_ids)
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


async def test_seeded_texts_come_as_often_as_others() -> None:
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=FEW)
    planned = Planned(api, window=2, largest_window=4)
    expected = texts_of(MODEL, TOKENIZER, PROMPT, REGEX)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(1_500):
        counts[(await planned.complete(request(REGEX, seed=seed))).token_ids] += 1
    assert total_variation(counts, expected) <= noise(expected, 1_500)


async def test_chats_that_cannot_be_continued_give_the_model_given_the_constraint() -> None:
    rule = Regex("[ab]{1,2}")
    model = Leaning(MODEL, [*TOKENIZER.encode("a"), *TOKENIZER.encode("b"), *TOKENIZER.eos_token_ids], 8.0)
    able = replace(FEW, is_chat=True, continuation=False)
    free = texts_of(model, TOKENIZER, PROMPT, Regex("(?s:.)*"), max_tokens=2, least=1e-6)
    valid = {ids: share for ids, share in free.items() if is_complete(rule, ids)}
    total = sum(valid.values())
    expected = {ids: share / total for ids, share in valid.items()}
    planned = Planned(ApiModel(model=model, tokenizer=TOKENIZER, capabilities=able), max_retries=10_000)
    counts, completions = await planned.counts(replace(request(rule), max_tokens=2), 1_000)
    assert all(item.certificate.semantics == "global" for item in completions)
    assert all(item.certificate.valid for item in completions)
    assert total_variation(counts, expected) <= noise(expected, 1_000)


def is_complete(rule, ids) -> bool:
    matcher = rule.compile(TOKENIZER).matcher()
    return matcher.advance(ids) == len(ids) and matcher.is_accepting


async def test_a_part_of_a_mask_is_within_its_bound() -> None:
    letters = TOKENIZER.encode("abcdefgh")
    able = replace(FEW, max_bias_entries=40)
    rule = Regex("[a-z ]+")
    api = ApiModel(model=Leaning(MODEL, letters, 2.0), tokenizer=TOKENIZER, capabilities=able)
    asked = replace(request(rule), max_tokens=1)
    counts, completions = await Planned(api, window=1, max_attempts=1).counts(asked, 4_000)
    parts = [item.certificate for item in completions if not item.certificate.exact]
    assert 0 < len(parts) < len(completions), "a free draw that is valid is exact"
    assert all(item.certificate.valid for item in completions)
    assert all("only 40 of its tokens could be drawn" in item.detail for item in parts)
    bounds = [item.bound for item in parts]
    assert all(bound is not None and 0.0 < bound < 1.0 for bound in bounds)
    expected = texts_of(api.model, TOKENIZER, PROMPT, rule, max_tokens=1)
    found = total_variation(counts, expected)
    assert noise(expected, 4_000) < found <= max(bounds) + noise(expected, 4_000)
