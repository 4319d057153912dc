"""What earlier texts showed saves requests, and changes no distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fakes.api_model import OPENAI_COMPLETIONS, ApiModel, Leaning
from fakes.fake_engine import FakeModel
from fakes.local_masking import noise, texts_of, total_variation
from fakes.planned import Planned
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.types import GenerateRequest, SamplingParams
from lmql_backends.openai.planner.experience import KEPT_RULES, MOST_OPENERS, Experience
from lmql_backends.openai.planner.shortest import ShortestTokens

TOKENIZER = small_tokenizer()
PROMPT = tuple(TOKENIZER.encode("The quick brown"))
MODEL = FakeModel(TOKENIZER.vocab_size)
ABLE = replace(OPENAI_COMPLETIONS, max_bias_entries=60, max_top_logprobs=0, shows_logprobs=False)


def request(rule, seed=None) -> GenerateRequest:
    sampling = SamplingParams(temperature=1.0, seed=seed)
    return GenerateRequest(prompt_ids=PROMPT, constraint=rule, sampling=sampling, max_tokens=40)


def test_a_length_covers_most_of_the_known_ones_and_few_tell_nothing() -> None:
    experience = Experience()
    for length in (10, 10, 11):
        experience.add_length("a", length)
    assert experience.length("a") is None
    for length in (10, 11, 10, 12, 90):
        experience.add_length("a", length)
    assert experience.length("a") == 12
    assert experience.length("b") is None
    for number in range(4 * KEPT_RULES):
        experience.add_length(number // 4, 1)
    assert experience.length("a") is None, "what was not used for long is forgotten"
    assert experience.length(KEPT_RULES - 1) == 1


def test_what_is_refused_most_often_comes_first() -> None:
    experience = Experience()
    for _ in range(10):
        experience.add_refused([5])
        experience.add_refused([3, 9_999])
        experience.add_refused([3])
    assert experience.refused(384).tolist()[:2] == [3, 5]
    assert 9_999 not in experience.refused(384)


def test_tokens_that_begin_alike_are_found() -> None:
    shortest = ShortestTokens(TOKENIZER)
    digits = TOKENIZER.encode("7")
    texts = TOKENIZER.all_token_bytes()
    found = {texts[item][:1] for item in shortest.like(digits).tolist()}
    assert found == {str(digit).encode() for digit in range(10)}


async def test_later_texts_of_a_rule_are_asked_for_in_their_length() -> None:
    letters = Leaning(MODEL, [TOKENIZER.encode(letter)[0] for letter in "abcdefgh"], 20.0)
    api = ApiModel(model=letters, tokenizer=TOKENIZER, capabilities=ABLE)
    planned = Planned(api)
    for _ in range(6):
        await planned.complete(request(Regex("[a-h]{12}")))
    assert [ask.max_tokens for ask in api.asks if len(ask.prompt) == len(PROMPT)] == [32] * 4 + [12] * 2


async def test_tokens_that_were_refused_often_are_banned_with_the_first_refusal() -> None:
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=ABLE, gives_several=False)
    planned = Planned(api)
    costs = [(await planned.complete(request(Regex("[a-z ]{8}")))).cost.requests for _ in range(60)]
    assert np.mean(costs[40:]) < 0.8 * np.mean(costs[:5])


async def test_experienced_draws_come_as_often_as_under_local_masks() -> None:
    rule = Regex("[a-z]{1,2}")
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=ABLE)
    planned = Planned(api, max_attempts=10_000)
    asked = replace(request(rule), max_tokens=1)
    await planned.counts(asked, 300)
    counts, completions = await planned.counts(asked, 3_000)
    assert all(item.certificate.exact for item in completions)
    expected = texts_of(MODEL, TOKENIZER, PROMPT, rule, max_tokens=1)
    assert total_variation(counts, expected) <= noise(expected, 3_000)


async def test_a_seed_gives_the_same_text_whatever_came_before() -> None:
    api = ApiModel(model=MODEL, tokenizer=TOKENIZER, capabilities=replace(ABLE, seed=True))
    planned = Planned(api)
    rule = Regex("[a-z ]{8}")
    first = await planned.complete(request(rule, seed=5))
    for _ in range(30):
        await planned.complete(request(rule))
    again = await planned.complete(request(rule, seed=5))
    assert again.token_ids == first.token_ids


def test_openers_are_refused_often_and_stay() -> None:
    experience = Experience()
    experience.add_opening("a", [7])
    assert experience.openers("a") == ()
    experience.add_opening("a", [7])
    for _ in range(100):
        experience.add_opening("a", [])
    experience.add_opening("a", [8])
    experience.add_opening("a", [8])
    assert experience.openers("a") == (7,), "two of a hundred are too few"
    for token_id in range(20, 40):
        experience.add_opening("a", [token_id] * 9)
    assert len(experience.openers("a")) == MOST_OPENERS
    assert experience.openers("b") == ()


def test_an_opener_that_is_wanted_later_is_none() -> None:
    experience = Experience()
    for _ in range(10):
        experience.add_opening("a", [7])
        experience.add_opening("a", [8])
    for _ in range(20):
        experience.add_opening("a", [], lifted=[7])
        experience.add_opening("a", [], lifted=[7])
        experience.add_opening("a", [], lifted=[8])
        for _ in range(3):
            experience.add_opening("a", [])
    assert experience.openers("a") == (8,)
    experience.add_opening("a", [7])
    assert experience.openers("a") == (8,), "it is not tried again"
