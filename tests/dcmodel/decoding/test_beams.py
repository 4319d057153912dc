"""Beam search against all texts of small languages, in closed form."""

from __future__ import annotations

import contextlib
import itertools
import random

import numpy as np
import pytest
from fakes.small_languages import LONGEST, Example, example

from dcmodel.constraints import Choice, Grammar, JsonSchema, NotIn, Regex
from dcmodel.decoding import beam_search, contrastive, diverse_beam_search, greedy
from dcmodel.errors import InvalidConstraintError, InvalidRequestError
from dcmodel.types import ScoreRequest

CLASHING = Grammar('start: "ab" | "bca" | "cca"') & Grammar('start: "ab" c* | "bb" | "cca" c*\nc: "c"')
ENOUGH = 216
"""Texts of three tokens out of six: with four tokens, no search needs more live ones."""
CLOSED = {"type": "object", "additionalProperties": False}
EOS = 0


def all_of(completion):
    return [completion, *completion.alternatives]


def best(paths, keep, length_penalty=0.0):
    scored = [(total / len(path) ** length_penalty, path) for path, total in paths.items()]
    return sorted(scored, key=lambda item: -item[0])[:keep]


def assert_are(completion, expected):
    found = all_of(completion)
    assert [item.token_ids for item in found] == [path for _, path in expected]
    assert [item.score for item in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def examples(tokenizer, count: int, depth: int) -> list[Example]:
    """Random rules that some text satisfies."""
    rng = random.Random(count)
    found: list[Example] = []
    while len(found) < count:
        item = example(rng, depth)
        if not item.language - {""}:
            continue
        with contextlib.suppress(InvalidConstraintError):  # an intersection that the search cannot complete
            item.rule.compile(tokenizer)
            found.append(item)
    return found


async def test_with_enough_beams_the_best_texts_are_found(make_world, tokenizer):
    num_found = 0
    for seed, item in enumerate([*examples(tokenizer, 6, 0), *examples(tokenizer, 10, 2)]):
        world = make_world(seed, scale=1.0 + seed % 3)
        paths = world.paths(item.rule)
        session = await world.session(item.rule)
        if not paths:  # no text is short enough
            assert not (await beam_search(session, ENOUGH)).certificate.valid
            continue
        keep = min(5, len(paths))
        for length_penalty in (0.0, 0.6, 1.0):
            found = await beam_search(session, ENOUGH, keep, length_penalty)
            assert_are(found, best(paths, keep, length_penalty))
            for result in all_of(found):
                assert result.certificate.valid
                assert len(result.text) > LONGEST or result.text in item.language
        num_found += 1
    assert num_found > 12


async def test_with_few_beams_texts_are_valid_and_scores_exact(make_world, tokenizer):
    num_found = 0
    for seed, item in enumerate(examples(tokenizer, 12, 2)):
        world = make_world(seed)
        paths = world.paths(item.rule)
        session = await world.session(item.rule)
        for beams in (1, 2, 3):
            found = await beam_search(session, beams, beams)
            if not found.certificate.valid:  # all live texts ran past max_tokens, and say so
                assert all(result.finish_reason == "length" for result in all_of(found))
                continue
            num_found += 1
            for result in all_of(found):
                assert result.certificate.valid
                assert result.score == pytest.approx(paths[result.token_ids], abs=1e-4)
                assert result.raw_logprob == pytest.approx(result.score, abs=1e-6)
            scores = [result.score for result in all_of(found)]
            assert scores == sorted(scores, reverse=True)
            assert len({result.token_ids for result in all_of(found)}) == len(scores)
    assert num_found > 25


async def test_options_that_begin_other_options(world):
    rule = Choice(["a", "ab", "abc", "abca", "c", "cc", "bcab"])
    paths = world.paths(rule)
    assert {world.text(path) for path in paths} == set(rule.options)
    found = await beam_search(await world.session(rule), ENOUGH, len(paths))
    assert_are(found, best(paths, len(paths)))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
async def test_without_a_constraint(make_world, length_penalty):
    for seed in range(4):
        world = make_world(seed)
        found = await beam_search(await world.session(max_tokens=3), 100, 5, length_penalty)
        assert_are(found, best(world.paths(max_tokens=3), 5, length_penalty))


async def test_a_vocabulary_of_hundreds_without_a_constraint(words):
    first = words.logprobs(())
    pairs = {
        (one, two): first[one] + row[two]
        for one in range(len(first))
        if one != 1  # the end
        for row in [words.logprobs((one,))]
        for two in np.argsort(-row)[:5].tolist()
    }
    found = await beam_search(await words.session(max_tokens=2), 40, 5)
    assert_are(found, best({**pairs, (1,): first[1]}, 5))


@pytest.mark.parametrize(
    "rule",
    [
        Choice(["yes", "yes no maybe", "no maybe yes", "the quick brown fox", "the quick fox"]),
        Regex("(answer: )?(positive|negative)( true| false)?!"),
        Grammar('start: "name yes" | "name no" | "age 3"') & NotIn(["3"]),
        JsonSchema({"properties": {"ok": {"type": "boolean"}}, "required": ["ok"], **CLOSED}) & NotIn(["tr"]),
    ],
    ids=["choice", "regex", "intersection", "json"],
)
async def test_forced_tokens_count_in_the_score(words, rule):
    paths = {
        path: sum(words.logprobs(path[:place])[token] for place, token in enumerate(path))
        for path in words.paths(rule, 60)
    }
    keep = min(len(paths), 6)
    session = await words.session(rule, 60)
    found = await beam_search(session, 64, keep)
    assert_are(found, best(paths, keep))
    per_token = await beam_search(session, 64, keep, 1.0)
    assert_are(per_token, best(paths, keep, 1.0))
    assert session.token_ids == ()


async def test_refused_tokens_are_passed_over(world):
    session = await world.session(CLASHING)
    assert not session.is_exact
    found = await session.logprobs()
    assert (found.masked_logprobs > -np.inf).sum() > 2
    paths = world.paths(CLASHING)
    assert_are(await beam_search(session, ENOUGH, 3), best(paths, 3))
    narrow = await beam_search(session, 1)
    assert narrow.token_ids in paths


async def test_more_candidates_are_asked_for_where_many_are_refused(words):
    """Of the 26 letters that both masks allow first, one leads on."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    ones = " | ".join(f'"{letter}1"' for letter in letters if letter != "q") + ' | "q0"'
    twos = " | ".join(f'"{letter}2"' for letter in letters if letter != "q") + ' | "q0"'
    rule = Grammar(f"start: {ones}") & Grammar(f"start: {twos}")
    session = await words.session(rule)
    assert ((await session.logprobs()).masked_logprobs > -np.inf).sum() >= 26
    found = await beam_search(session, 1)
    assert found.text == "q0"
    assert found.score == pytest.approx(max(words.paths(rule).values()), abs=1e-4)


async def test_one_beam_is_greedy(make_world):
    for seed in range(10):
        world = make_world(seed, scale=2.0)
        for rule in (None, Regex("[abc]{1,4}"), Choice(["a", "abc", "bcb", "cab"])):
            session = await world.session(rule, 6)
            assert (await beam_search(session, 1)).token_ids == (await greedy(session)).token_ids


async def test_the_search_stops_when_nothing_can_beat_what_it_has(make_world):
    """A text of hundreds of tokens is allowed; the best one is short."""
    world = make_world(3, scale=3.0)
    best_short = best(world.paths(max_tokens=4), 1)
    session = await world.session(max_tokens=300)
    found = await beam_search(session, 30)
    if len(found.token_ids) <= 4:
        assert found.score >= best_short[0][0] - 1e-4
    assert len(world.loaded.engine.batches) < 100


async def test_a_text_of_nothing_but_forced_tokens(words):
    rule = Choice(["the quick brown fox"])
    ((path, total),) = words.paths(rule, 40).items()
    found = await beam_search(await words.session(rule, 40), 3)
    assert found.token_ids == path
    assert found.score == pytest.approx(total, abs=1e-4)
    assert found.finish_reason == "stop"
    assert len(words.loaded.engine.batches) == 1


async def test_where_max_tokens_cuts_all_texts_short_the_best_of_them_come(world):
    session = await world.session(Regex("[ab]{5}"), 2)
    found = await beam_search(session, ENOUGH, 2)
    likeliest = [item.token_ids for item in all_of(found)]
    assert len(likeliest) == 2
    for item in all_of(found):
        assert (item.certificate.valid, item.finish_reason) == (False, "length")
        assert set(item.text) <= set("ab")
        (scored,) = (
            await world.model.score(
                ScoreRequest(prompt_ids=session.prompt_ids, continuations=(item.token_ids,))
            )
        ).continuations
        assert item.score == pytest.approx(scored.logprob, abs=1e-4)
    assert found.score >= found.alternatives[0].score


async def test_beams_go_on_from_what_a_session_holds(world):
    rule = Regex("[abc]{3,4}")
    session = await world.session(rule)
    session.append([3])
    expected = {path: total for path, total in world.paths(rule).items() if path[0] == 3}
    found = await beam_search(session, ENOUGH, 4)
    assert_are(found, best(expected, 4))
    assert session.token_ids == (3,)


async def test_bad_numbers_are_refused(world):
    session = await world.session()
    for call in (
        beam_search(session, 0),
        beam_search(session, 2, 3),
        beam_search(session, 2, length_penalty=-1.0),
        diverse_beam_search(session, 4, 3, 1.0),
        diverse_beam_search(session, 4, 2, -1.0),
        contrastive(session, session, 0.0),
    ):
        with pytest.raises(InvalidRequestError):
            await call


# -- diverse beams ---------------------------------------------------------------------------------


def plain_diverse(world, beams, groups, diversity, length):
    """Vijayakumar et al. 2016 over texts of one length, by the book; per group the final texts."""
    width = beams // groups
    live = [[((), 0.0)] for _ in range(groups)]
    for place in range(length):
        chosen = []
        for group in range(groups):
            candidates = []
            for path, total in live[group]:
                logprobs = world.logprobs(path)
                for token_id in range(1, world.tokenizer.vocab_size):
                    count = sum(earlier[place] == token_id for earlier in chosen)
                    value = total + float(logprobs[token_id])
                    candidates.append((value - diversity * count, (*path, token_id), value))
            candidates.sort(key=lambda item: -item[0])
            live[group] = [(path, value) for _, path, value in candidates[:width]]
            chosen += [path for path, _ in live[group]]
    return live


@pytest.mark.parametrize(("beams", "groups"), [(3, 3), (4, 2), (6, 2), (6, 3)])
async def test_diverse_beams_are_those_of_the_paper(make_world, beams, groups):
    for seed, diversity in itertools.product(range(6), (0.5, 3.0)):
        world = make_world(seed)
        # The model itself never ends a text.
        world.closed_form._by_last[:, EOS] = world.loaded.engine.model._by_last[:, EOS] = -1e9
        expected = {}
        for group in plain_diverse(world, beams, groups, diversity, 4):
            expected.update(dict(group))
        session = await world.session(max_tokens=4)
        found = await diverse_beam_search(session, beams, groups, diversity, keep=beams)
        assert_are(found, best(expected, beams))


async def test_one_group_is_beam_search(make_world, tokenizer):
    for seed, item in enumerate(examples(tokenizer, 5, 1)):
        world = make_world(seed)
        if not world.paths(item.rule):
            continue
        session = await world.session(item.rule)
        plain = await beam_search(session, 8, 4)
        grouped = await diverse_beam_search(session, 8, 1, 5.0, keep=4)
        assert [r.token_ids for r in all_of(plain)] == [r.token_ids for r in all_of(grouped)]


async def test_groups_keep_away_from_one_another(world):
    rule = Regex("[abc]")
    session = await world.session(rule)
    found = all_of(await diverse_beam_search(session, 3, 3, 100.0, keep=3))
    assert {item.text for item in found} == {"a", "b", "c"}
    alike = all_of(await diverse_beam_search(session, 3, 3, 0.0, keep=3))
    assert len(alike) == 1


# -- contrastive -----------------------------------------------------------------------------------


def plain_contrastive(expert, amateur, alpha, max_tokens):
    """One beam, by the formula."""
    path, total = (), 0.0
    while len(path) < max_tokens and path[-1:] != (EOS,):
        strong, weak = expert.logprobs(path), amateur.logprobs(path)
        plausible = strong >= strong.max() + np.log(alpha)
        values = np.where(plausible, strong - weak, -np.inf)
        path, total = (*path, int(values.argmax())), total + float(values.max())
    return path, total


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
async def test_contrastive_decoding_is_the_formula(make_world, alpha):
    for seed in range(6):
        expert, amateur = make_world(seed), make_world(seed + 100, scale=0.5)
        path, total = plain_contrastive(expert, amateur, alpha, 6)
        found = await contrastive(
            await expert.session(max_tokens=6), await amateur.session(max_tokens=6), alpha
        )
        assert found.token_ids == path
        assert found.score == pytest.approx(total, abs=1e-4)


async def test_contrastive_beams_under_a_constraint(make_world):
    """With alpha near 0 every allowed token takes part: the best text of all, of one length."""
    rule = Regex("[abc]{6}")
    expert, amateur = make_world(1), make_world(2)
    paths = expert.paths(rule, 4)
    gaps = {
        path: total - sum(amateur.logprobs(path[:i])[token] for i, token in enumerate(path))
        for path, total in paths.items()
    }
    found = await contrastive(
        await expert.session(rule, 4), await amateur.session(max_tokens=4), 1e-30, beams=300
    )
    assert found.certificate.valid
    assert found.token_ids in gaps
    assert found.score == pytest.approx(max(gaps.values()), abs=1e-4)


async def test_contrastive_counts_forced_tokens(words, make_world):
    rule = Choice(["yes no maybe", "the quick brown fox"])
    amateur = make_world(7, tokenizer=words.tokenizer, prompt="yes")
    gaps = {
        path: total - sum(amateur.logprobs(path[:i])[token] for i, token in enumerate(path))
        for path, total in words.paths(rule, 40).items()
    }
    found = await contrastive(
        await words.session(rule, 40), await amateur.session(max_tokens=40), 1e-30, beams=8
    )
    assert found.score == pytest.approx(gaps[found.token_ids], abs=1e-4)
