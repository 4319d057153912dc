"""Draws given the constraint, against laws in closed form."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import numpy as np
import pytest
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Choice, Grammar, NotIn, Regex
from dcmodel.decoding import sample_by_rejection, sample_exactly
from dcmodel.errors import DeadEndError, InvalidRequestError
from dcmodel.types import Completion

DRAWS = 20_000
OPTIONS = Choice(["a", "ab", "abca", "bb", "bcbc", "ccc", "cab"])
TWO_GRAMMARS = Grammar('start: "ab" | "bcca" | "cbb" | "cabc"') & Grammar(
    'start: "ab" | "bb" | "bccb" | "cbb" | "cca" | "cabc" | "a"'
)
NO_REPEATS = Grammar('start: "a" x "b" | "c" x "c" | "b" x "a"\nx: "b" | "c" | "ab"') & NotIn(["bb", "cc"])
PALINDROMES = Grammar('start: "a" start "a" | "b" start "b" | "c"')
RULES = {
    "options": OPTIONS,
    "many tokenizations": Regex("abc(abc|ab|b)?|c[ab]c"),
    "inexact masks": TWO_GRAMMARS,
}
MORE_RULES = {**RULES, "inexact masks, too": NO_REPEATS}


def law_of(paths):
    """Probabilities given that one of these sequences came, and the probability of that."""
    log_z = np.logaddexp.reduce(list(paths.values()))
    return {path: math.exp(total - log_z) for path, total in paths.items()}, float(log_z)


def distance(one, other):
    """Total variation."""
    return sum(abs(one.get(key, 0.0) - other.get(key, 0.0)) for key in {*one, *other}) / 2


def noise(law, draws):
    """The total variation from its law that so many draws stay below in 999 of 1,000 cases."""
    probs = np.array(list(law.values()))
    counts = np.random.default_rng(0).multinomial(draws, probs / probs.sum(), size=4_000)
    return float(np.quantile(np.abs(counts / draws - probs).sum(axis=1) / 2, 0.999))


def smc_noise(law, local):
    """The same for `DRAWS` particles.

    Without resampling they are draws of the locally masked law, weighted: simulated here. Each of at most
    two resamplings adds no more than the noise of as many draws of the law itself; variances add up.
    """
    probs, masked = np.array(list(law.values())), np.array([local[path] for path in law])
    cut_short = max(1.0 - masked.sum(), 0.0)
    counts = np.random.default_rng(1).multinomial(DRAWS, [*masked, cut_short], size=4_000)[:, :-1]
    weights = counts * (probs / masked)
    shares = weights / weights.sum(axis=1, keepdims=True)
    weighted = float(np.quantile(np.abs(shares - probs).sum(axis=1) / 2, 0.999))
    return math.sqrt(weighted**2 + 2 * noise(law, DRAWS) ** 2)


def weights_of(completion):
    return {item.token_ids: item.weight for item in (completion, *completion.alternatives)}


def drawn_shares(completions):
    counts = Counter(item.token_ids for item in completions)
    return {token_ids: count / len(completions) for token_ids, count in counts.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", MORE_RULES)
async def test_particles_have_the_law_given_the_constraint(make_world, name, temperature):
    world = make_world(5)
    law, log_z = law_of(world.paths(MORE_RULES[name], temperature=temperature))
    local = world.local_law(MORE_RULES[name], temperature=temperature)
    session = await world.session(MORE_RULES[name])
    assert session.is_exact == (not name.startswith("inexact"))
    found = await sample_exactly(session, DRAWS, temperature=temperature, seed=1)
    weights = weights_of(found)
    assert set(weights) <= set(law)
    assert distance(weights, law) < smc_noise(law, local)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert found.log_z == pytest.approx(log_z, abs=0.05)
    assert session.token_ids == ()


async def test_texts_that_may_be_cut_short(make_world):
    world = make_world(5)
    law, log_z = law_of(world.paths(PALINDROMES))
    found = await sample_exactly(await world.session(PALINDROMES), DRAWS, seed=1)
    assert distance(weights_of(found), law) < smc_noise(law, world.local_law(PALINDROMES))
    assert found.log_z == pytest.approx(log_z, abs=0.05)


@pytest.mark.parametrize("name", MORE_RULES)
async def test_the_masked_law_is_another_one(make_world, name):
    """The tests above would not take it, nor that of another temperature, for the right one."""
    world = make_world(5)
    law, _ = law_of(world.paths(MORE_RULES[name]))
    local = world.local_law(MORE_RULES[name])
    assert sum(local.values()) == pytest.approx(1.0)
    assert distance(local, law) > 2 * smc_noise(law, local)
    for temperature in (0.6, 1.7):
        tempered, _ = law_of(world.paths(MORE_RULES[name], temperature=temperature))
        assert distance(tempered, law) > 2 * smc_noise(law, local)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_forced_tokens_count(make_world, temperature):
    words = make_world(3, scale=0.4, tokenizer=small_tokenizer(), prompt="yes")
    rule = Choice(["yes", "yes no maybe", "the quick brown fox", "the quick fox", "no maybe yes"])
    law, log_z = law_of(words.paths(rule, 40, temperature=temperature))
    local = words.local_law(rule, 40, temperature=temperature)
    assert distance(local, law) > 2 * smc_noise(law, local)
    session = await words.session(rule, 40)
    found = await sample_exactly(session, DRAWS, temperature=temperature, seed=2)
    assert distance(weights_of(found), law) < smc_noise(law, local)
    assert found.log_z == pytest.approx(log_z, abs=0.05)


@pytest.mark.parametrize("name", RULES)
async def test_the_estimate_of_z_is_unbiased(make_world, name):
    runs = 150
    world = make_world(5)
    _, log_z = law_of(world.paths(RULES[name], 3))
    session = await world.session(RULES[name], 3)
    calls = [sample_exactly(session, 2, seed=seed, ess_threshold=0.9) for seed in range(runs)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(item, DeadEndError | Completion) for item in results)
    # A dead end: all ran past max_tokens.
    estimates = [math.exp(item.log_z) if isinstance(item, Completion) else 0.0 for item in results]
    error = np.std(estimates, ddof=1) / math.sqrt(runs)
    assert abs(np.mean(estimates) - math.exp(log_z)) < 4 * error + 1e-6
    assert error < 0.3 * math.exp(log_z)


async def test_particles_share_sessions_and_questions(make_world):
    world = make_world(5)
    paths = world.paths(OPTIONS)
    await sample_exactly(await world.session(OPTIONS), DRAWS, seed=1)
    prefixes = {path[:length] for path in paths for length in range(len(path) + 1)}
    asked = sum(len(span.wanted) for batch in world.loaded.engine.batches for span in batch.spans)
    assert asked <= 2 * len(prefixes)


async def test_the_same_seed_gives_the_same_draw(make_world):
    world = make_world(5)
    session = await world.session(TWO_GRAMMARS)
    one, two = [await sample_exactly(session, 20, seed=4) for _ in range(2)]
    assert weights_of(one) == weights_of(two)
    assert one.token_ids == two.token_ids
    drawn = {(await sample_exactly(session, 20, seed=seed)).token_ids for seed in range(20)}
    assert len(drawn) > 1


async def test_the_draw_follows_the_weights(make_world):
    world = make_world(5)
    law, _ = law_of(world.paths(OPTIONS))
    session = await world.session(OPTIONS)
    draws = 120
    found = await asyncio.gather(*(sample_exactly(session, 30, seed=seed) for seed in range(draws)))
    # The draws of single runs are independent; 30 particles are off by a percent or so.
    assert distance(drawn_shares(found), law) < noise(law, draws) + 0.02


async def test_what_a_result_says_of_itself(world):
    found = await sample_exactly(await world.session(OPTIONS), 100, seed=1)
    assert found.certificate.valid
    assert found.certificate.semantics == "global"
    assert "100 particles" in found.certificate.detail
    weights = [item.weight for item in found.alternatives]
    assert weights == sorted(weights, reverse=True)
    assert {item.log_z for item in found.alternatives} == {found.log_z}
    for item in (found, *found.alternatives):
        assert len(item.logprobs) == len(item.token_ids)
    assert not any(item.alternatives for item in found.alternatives)


async def test_without_a_constraint_nothing_is_lost(world):
    found = await sample_exactly(await world.session(max_tokens=3), 200, seed=1)
    assert found.log_z == pytest.approx(0.0, abs=1e-6)
    assert sum(weights_of(found).values()) == pytest.approx(1.0)


async def test_nothing_within_max_tokens_is_a_dead_end(world):
    session = await world.session(Regex("c{5}"), 3)
    with pytest.raises(DeadEndError, match="max_tokens"):
        await sample_exactly(session, 10, seed=0)
    with pytest.raises(DeadEndError, match="max_tokens"):
        await sample_by_rejection(session, seed=0)


async def test_a_session_that_has_begun(make_world):
    """The law of the rest, given what stands there."""
    world = make_world(5)
    session = await world.session(OPTIONS)
    session.append([2])  # not scored yet
    paths = {path: total for path, total in world.paths(OPTIONS).items() if path[0] == 2}
    law, log_z = law_of(paths)
    found = await sample_exactly(session, DRAWS, seed=1)
    local = world.local_law(OPTIONS)
    assert distance(weights_of(found), law) < smc_noise(law, {path: local[path] for path in law})
    assert found.log_z == pytest.approx(log_z - float(world.logprobs(())[2]), abs=0.05)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", MORE_RULES)
async def test_rejection_draws_from_the_law(make_world, name, temperature):
    draws = DRAWS if temperature == 1.0 else 2_000
    world = make_world(5)
    law, log_z = law_of(world.paths(MORE_RULES[name], temperature=temperature))
    session = await world.session(MORE_RULES[name])
    found = await sample_by_rejection(session, draws, seed=3, temperature=temperature)
    every = (found, *found.alternatives)
    assert len(every) == draws
    assert distance(drawn_shares(every), law) < noise(law, draws)
    assert distance(world.local_law(MORE_RULES[name]), law) > 2 * noise(law, draws)
    assert found.log_z == pytest.approx(log_z, abs=0.02)
    assert all(item.certificate.valid and item.certificate.semantics == "global" for item in every)
    assert {item.weight for item in every} == {1 / draws}


@pytest.mark.parametrize("name", ["options", "inexact masks"])
async def test_the_first_draw_of_a_new_tree_is_exact(make_world, name):
    draws = 150
    world = make_world(5)
    law, _ = law_of(world.paths(RULES[name]))
    session = await world.session(RULES[name])
    found = await asyncio.gather(*(sample_by_rejection(session, seed=seed) for seed in range(draws)))
    assert distance(drawn_shares(found), law) < noise(law, draws)
    assert distance(world.local_law(RULES[name]), law) > noise(law, draws)


async def test_draws_of_one_tree_are_independent(make_world):
    """Pairs of successive draws have the product of the law."""
    world = make_world(5)
    law, _ = law_of(world.paths(TWO_GRAMMARS))
    pairs = {(one, two): law[one] * law[two] for one in law for two in law}
    session = await world.session(TWO_GRAMMARS)
    runs = await asyncio.gather(*(sample_by_rejection(session, 2, seed=seed) for seed in range(150)))
    counts = Counter((item.token_ids, item.alternatives[0].token_ids) for item in runs)
    assert distance({pair: count / 150 for pair, count in counts.items()}, pairs) < noise(pairs, 150)


async def test_rejection_in_texts_that_may_be_cut_short(make_world):
    world = make_world(5)
    law, log_z = law_of(world.paths(PALINDROMES))
    found = await sample_by_rejection(await world.session(PALINDROMES), 2_000, seed=1)
    assert distance(drawn_shares((found, *found.alternatives)), law) < noise(law, 2_000)
    assert found.log_z == pytest.approx(log_z, abs=0.03)


async def test_rejection_counts_its_tries(world):
    session = await world.session(OPTIONS)
    calls = [sample_by_rejection(session, seed=seed, tries=1) for seed in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [item for item in results if isinstance(item, DeadEndError)]
    assert failed
    assert all("none of 1 tries" in str(item) for item in failed)
    one, two = [await sample_by_rejection(session, 3, seed=9) for _ in range(2)]
    assert one.token_ids == two.token_ids
    assert one.certificate == two.certificate
    assert "for 3 draws" in one.certificate.detail


async def test_a_place_is_asked_once_for_all_draws(world):
    paths = world.paths(OPTIONS)
    await sample_by_rejection(await world.session(OPTIONS), 500, seed=1)
    prefixes = {path[:length] for path in paths for length in range(len(path) + 1)}
    asked = sum(len(span.wanted) for batch in world.loaded.engine.batches for span in batch.spans)
    assert asked <= 2 * len(prefixes)


async def test_bad_numbers_are_refused(world):
    session = await world.session(OPTIONS)
    for call in (
        sample_exactly(session, 0),
        sample_exactly(session, 10, temperature=0.0),
        sample_exactly(session, 10, ess_threshold=1.5),
        sample_by_rejection(session, 0),
        sample_by_rejection(session, tries=0),
        sample_by_rejection(session, temperature=-1.0),
    ):
        with pytest.raises(InvalidRequestError):
            await call
