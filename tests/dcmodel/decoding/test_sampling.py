"""Greedy, samples and the best of several, against `generate` and closed forms."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from dcmodel.constraints import Choice, Grammar, MaskFunction, Regex
from dcmodel.decoding import best_of, greedy, sample
from dcmodel.errors import DeadEndError, InvalidRequestError
from dcmodel.types import FinishReason, GenerateRequest

RULES = {
    "none": None,
    "regex": Regex("[abc]{2,6}"),
    "choice": Choice(["a", "abc", "bcb", "cab"]),
    "intersection": Grammar('start: "ab" | "bcca" | "cbb"') & Grammar('start: "ab" | "bb" | "cbb" | "cca"'),
}


@pytest.mark.parametrize("name", RULES)
async def test_greedy_is_the_greedy_generation(world, name):
    session = await world.session(RULES[name], 6, temperature=1.3)
    request = GenerateRequest(prompt_ids=world.prompt_ids, constraint=RULES[name], max_tokens=6)
    expected = await world.model.generate(request).completion()
    found = await greedy(session)
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)
    assert (found.finish_reason, found.stop_reason) == (expected.finish_reason, expected.stop_reason)
    assert found.raw_logprob == pytest.approx(expected.raw_logprob, abs=1e-4)
    assert session.token_ids == ()


async def test_forced_tokens_are_scored_and_cost_no_step(words):
    rule = Choice(["the quick brown fox", "the quick fox"])
    found = await greedy(await words.session(rule, 40))
    path = found.token_ids
    assert len(found.logprobs) == len(path) > 4
    for place, token_id in enumerate(path):
        expected = words.logprobs(path[:place])[token_id]
        assert found.logprobs[place].raw_logprob == pytest.approx(expected, abs=1e-4)
    # The prompt with what is forced, then a letter or two, then the end.
    assert len(words.loaded.engine.batches) < len(path)


@pytest.mark.parametrize("name", RULES)
async def test_samples_come_again_with_their_seed(world, name):
    one, two = [await sample(await world.session(RULES[name], 6, seed=3), 8) for _ in range(2)]
    assert [item.token_ids for item in (one, *one.alternatives)] == [
        item.token_ids for item in (two, *two.alternatives)
    ]
    assert len({item.token_ids for item in (one, *one.alternatives)}) > 1
    assert len(one.alternatives) == 7


async def test_samples_are_independent_draws_of_the_masked_law(world):
    rule = RULES["choice"]
    law = world.local_law(rule)
    found = await sample(await world.session(rule, seed=1), 800)
    counts = Counter(item.token_ids for item in (found, *found.alternatives))
    for path, probability in law.items():
        error = math.sqrt(probability * (1 - probability) / 800)
        assert abs(counts[path] / 800 - probability) < 4.5 * error + 1e-9
    assert set(counts) <= set(law)


@pytest.mark.parametrize("by", ["mean", "sum"])
async def test_the_best_of_several(world, by):
    rule = Regex("[abc]{1,6}")
    session = await world.session(rule, 7, seed=5)
    drawn = await sample(await world.session(rule, 7, seed=5), 12)
    found = await best_of(session, 12, keep=4, by=by)
    scores = []
    for item in {item.token_ids: item for item in (drawn, *drawn.alternatives)}.values():
        logprobs = [
            world.logprobs(item.token_ids[:place])[token_id] for place, token_id in enumerate(item.token_ids)
        ]
        scores.append(float(np.mean(logprobs) if by == "mean" else np.sum(logprobs)))
    expected = sorted(scores, reverse=True)[:4]
    assert [item.score for item in (found, *found.alternatives)] == pytest.approx(expected, abs=1e-4)


async def test_valid_texts_are_better_than_those_cut_short(world):
    rule = Choice(["a", "ccccccccc"])
    session = await world.session(rule, 3, seed=0)
    session.append([3])
    assert (await best_of(session, 3)).finish_reason is FinishReason.LENGTH
    for seed in range(6):
        found = await best_of(await world.session(rule, 3, seed=seed), 12, keep=12)
        flags = [item.certificate.valid for item in (found, *found.alternatives)]
        assert flags == sorted(flags, reverse=True)


def no_way_on_after_b(token_ids):
    return [] if 2 in token_ids else [0, 1, 2]


async def test_samples_in_a_dead_end_drop_out(world):
    rule = MaskFunction(no_way_on_after_b)
    session = await world.session(rule, 5, seed=2)
    found = await best_of(session, 30, keep=30)
    assert 1 <= len(found.alternatives) + 1 < 30
    assert all(2 not in item.token_ids[:-1] for item in (found, *found.alternatives))
    with pytest.raises(DeadEndError):
        await sample(session, 30)
    session.append([2])
    with pytest.raises(DeadEndError):
        await best_of(session, 3)


async def test_bad_numbers_are_refused(world):
    session = await world.session()
    for call in (
        sample(session, 0),
        best_of(session, 0),
        best_of(session, 2, 3),
        best_of(session, 2, by="x"),
    ):
        with pytest.raises(InvalidRequestError):
            await call
