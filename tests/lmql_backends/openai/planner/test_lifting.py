"""Bans for a whole answer give banned tokens their share, wherever the mask allows them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fakes.api_model import OPENAI_COMPLETIONS, ApiModel, Leaning
from fakes.fake_engine import FakeModel, loaded_fake
from fakes.local_masking import noise, texts_of, total_variation
from fakes.planned import Planned
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest, SamplingParams, TopLogprob
from lmql_backends.openai.planner import experience, planning
from lmql_backends.openai.planner.experience import Opener
from lmql_backends.openai.planner.lifting import Doubt, Lifting, UnknownShareError

TOKENIZER = small_tokenizer()
PROMPT = tuple(TOKENIZER.encode("The quick brown"))
OPENERS = TOKENIZER.encode("xyz")
# Refused at the beginning, and allowed behind it.
RULE = Regex("[a-f][a-fx-z]{2}")
FLAT = FakeModel(TOKENIZER.vocab_size, scale=0.5)
MODEL = Leaning(FLAT, [*OPENERS, *TOKENIZER.encode("abcdef")], 7.0)


def request(temperature=1.0, **sampling) -> GenerateRequest:
    given = SamplingParams(temperature=temperature, **sampling)
    return GenerateRequest(prompt_ids=PROMPT, constraint=RULE, sampling=given, max_tokens=8)


def made(able=OPENAI_COMPLETIONS, model=MODEL) -> ApiModel:
    return ApiModel(model=model, tokenizer=TOKENIZER, capabilities=able)


@pytest.fixture(autouse=True)
def seeds(monkeypatch):
    """The same draws in every run."""
    numbers = itertools.count()
    monkeypatch.setattr(planning.secrets, "randbits", lambda _: next(numbers))


async def begun(planned, asked) -> tuple:
    """A text, and the tokens that were banned when it was begun."""
    before = len(planned.api.asks)
    completion = await planned.complete(asked)
    return completion, planned.api.asks[before].bias


# -- one place ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("shown", [2, 4, 6])
@pytest.mark.parametrize("allowed", [(0, 5), (5,), (0,), (0, 1, 5)])
def test_a_place_has_the_masked_distribution(shown, allowed, temperature) -> None:
    """Drawn under a ban of 0, 1 and 5; only `allowed` of these may come, and 2, 3 and 6."""
    model = np.array([0.2, 0.1, 0.25, 0.2, 0.15, 0.04, 0.06])
    warm = model ** (1.0 / temperature) / (model ** (1.0 / temperature)).sum()
    banned = (0, 1, 5)
    mask = np.isin(np.arange(7), [*allowed, 2, 3, 6])
    order = np.argsort(-model, kind="stable")[:shown].tolist()
    tops = [TopLogprob(item, math.log(model[item])) for item in order]
    lifting = Lifting(banned, temperature, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    left = np.where(np.isin(np.arange(7), banned), 0.0, warm)
    counts: Counter[tuple[int, ...]] = Counter()
    draws, doubts = 30_000, 0
    for drawn in rng.choice(7, size=draws, p=left / left.sum()).tolist():
        try:
            other = lifting.instead(TopLogprob(drawn, math.log(model[drawn])), tops, allowed)
        except UnknownShareError:
            assert shown < 6
            return
        if isinstance(other, Doubt):
            doubts += 1
            assert not set(order) & set(other.unknown)
            again = rng.choice(7, size=other.draws, p=warm).tolist()
            is_so = set(again) <= set(order) and lifting.came(other, model[list(other.unknown)])
            other = other.instead if is_so else None
        token_id = drawn if other is None else other
        if mask[token_id]:
            counts[(token_id,)] += 1
    expected = {(item,): warm[item] / warm[mask].sum() for item in np.flatnonzero(mask).tolist()}
    assert total_variation(counts, expected) <= noise(expected, counts.total())
    assert (doubts > 0) == (temperature != 1.0 or any(item not in order for item in banned))


def test_the_drawn_token_may_be_shown_below_the_likeliest() -> None:
    """OpenAI adds it to those that were asked for: nothing is learned from its probability."""
    tops = [TopLogprob(1, math.log(0.5)), TopLogprob(2, math.log(0.2)), TopLogprob(3, math.log(1e-6))]
    lifting = Lifting((9,), 1.0, np.random.default_rng(1))
    found = [lifting.instead(tops[2], tops, (9,)) for _ in range(1_000)]
    bounds = [item.bound for item in found if isinstance(item, Doubt)]
    assert bounds == pytest.approx([0.2] * len(bounds))
    assert len(bounds) == pytest.approx(200, abs=60)


@pytest.mark.parametrize("tops", [(), (TopLogprob(1, -1.0),)], ids=["none", "too few"])
def test_what_is_not_known_is_not_guessed(tops) -> None:
    lifting = Lifting((7, 8, 9), 1.0, np.random.default_rng(1))
    with pytest.raises(UnknownShareError):
        lifting.instead(TopLogprob(2, -3.0), tops, (8,))


# -- whole texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tops", "temperature"), [(20, 1.0), (5, 1.0), (20, 0.6), (5, 0.6), (20, 1.4)])
async def test_texts_come_as_often_as_under_local_masks(monkeypatch, tops, temperature) -> None:
    api = made(replace(OPENAI_COMPLETIONS, max_top_logprobs=tops))
    monkeypatch.setattr(Opener, "is_worth_it", True)
    planned = Planned(api, window=4)
    await planned.counts(request(temperature), 100)
    before = len(api.asks)
    draws = 2_000 if temperature == 1.0 else 1_000
    counts, completions = await planned.counts(request(temperature), draws)
    assert all(item.certificate.exact and item.certificate.valid for item in completions)
    expected = texts_of(MODEL, TOKENIZER, PROMPT, RULE, temperature=temperature)
    assert total_variation(counts, expected) <= noise(expected, draws)
    assert set((await begun(planned, request(temperature)))[1]) & set(OPENERS)
    questions = [ask for ask in api.asks[before:] if len(ask.bias) == 1 and max(ask.bias.values()) > 0]
    assert questions or tops == 20


@pytest.mark.parametrize("shows_ends", [True, False])
async def test_ends_come_as_often_where_nothing_is_shown_of_them(monkeypatch, shows_ends) -> None:
    monkeypatch.setattr(Opener, "is_worth_it", True)
    rule = Regex("[a-f][a-bx-z]{0,2}")
    model = Leaning(MODEL, TOKENIZER.eos_token_ids, 8.0)
    api = ApiModel(model=model, tokenizer=TOKENIZER, shows_ends=shows_ends)
    planned = Planned(api, window=4)
    asked = replace(request(), constraint=rule)
    await planned.counts(asked, 100)
    counts, completions = await planned.counts(asked, 2_000)
    assert all(item.certificate.exact and item.certificate.valid for item in completions)
    expected = texts_of(model, TOKENIZER, PROMPT, rule)
    assert total_variation(counts, expected) <= noise(expected, 2_000)
    assert set((await begun(planned, asked))[1]) & set(OPENERS)


async def test_a_text_begins_in_vain_only_until_that_is_known(monkeypatch) -> None:
    asked = replace(request(), constraint=Regex("[a-f]{4}"))

    async def requests() -> int:
        planned = Planned(made(), window=4)
        costs = [(await planned.complete(asked)).cost.requests for _ in range(300)]
        return sum(costs)

    found = await requests()
    monkeypatch.setattr(experience, "MOST_OPENERS", 0)
    assert found < 0.9 * await requests()


async def test_openers_that_are_wanted_later_are_no_longer_banned() -> None:
    api = made(model=Leaning(MODEL, TOKENIZER.encode("abcdef"), 1.0))
    planned = Planned(api, window=4)
    asked = replace(request(), constraint=Regex("[a-f][x-z]{9}"), max_tokens=12)
    banned = [bool(set((await begun(planned, asked))[1]) & set(OPENERS)) for _ in range(400)]
    assert any(banned)
    assert not any(banned[300:])


async def test_at_temperature_0_the_tokens_are_those_of_local_masks() -> None:
    engine = loaded_fake(TOKENIZER)
    greedy = Leaning(FLAT, OPENERS, 5.0)
    engine.engine.model = greedy
    async with LocalDcModel(engine) as local:
        ours = await local.generate(request(temperature=0.0)).completion()
    api = made(model=greedy)
    planned = Planned(api)
    for _ in range(6):
        theirs = await planned.complete(request(temperature=0.0))
        assert theirs.token_ids == ours.token_ids
        assert theirs.certificate.exact
    assert set((await begun(planned, request(temperature=0.0)))[1]) & set(OPENERS)
    assert set(ours.token_ids) & set(OPENERS), "what was banned at first was wanted later"


@pytest.mark.parametrize(
    ("able", "sampling"),
    [
        (replace(OPENAI_COMPLETIONS, raw_logprobs=False), {}),
        (replace(OPENAI_COMPLETIONS, max_top_logprobs=0, shows_logprobs=False), {}),
        (replace(OPENAI_COMPLETIONS, token_id_prompts=False), {}),
        (OPENAI_COMPLETIONS, {"presence_penalty": 0.5}),
        (OPENAI_COMPLETIONS, {"logit_bias": {5: 1.0}}),
    ],
    ids=["processed", "none shown", "text", "penalties", "bias"],
)
async def test_nothing_is_banned_where_its_share_cannot_be_given_back(able, sampling) -> None:
    api = made(able)
    planned = Planned(api, window=4)
    for _ in range(30):
        completion, banned = await begun(planned, request(**sampling))
        assert completion.certificate.valid
        assert banned == sampling.get("logit_bias", {})


async def test_a_seeded_text_does_not_depend_on_others() -> None:
    api = made()
    planned = Planned(api, window=4)
    before = await planned.complete(request(seed=3))
    banned = [(await begun(planned, request()))[1] for _ in range(30)]
    assert any(banned)
    again, banned = await begun(planned, request(seed=3))
    assert (again.token_ids, banned) == (before.token_ids, {})


async def test_a_share_that_is_not_shown_is_told() -> None:
    class Silent(ApiModel):
        async def ask(self, ask):
            reply = await super().ask(ask)
            is_question = len(ask.bias) == 1 and max(ask.bias.values()) > 0
            return replace(reply, logprobs=None) if is_question else reply

    api = Silent(
        model=MODEL, tokenizer=TOKENIZER, capabilities=replace(OPENAI_COMPLETIONS, max_top_logprobs=5)
    )
    _, completions = await Planned(api, window=4).counts(request(), 800)
    told = [item.certificate for item in completions if not item.certificate.exact]
    assert 0 < len(told) < len(completions)
    assert all("the share of a banned token was not shown" in item.detail for item in told)
    assert all(item.bound is not None and 0.0 < item.bound < 1.0 for item in told)
