"""Candidates of all shapes: the numbers are those of scoring each by itself, whatever shares a forward."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from conformance.requests import PROMPTS, prompt_ids, request, run

from dcmodel.errors import InvalidRequestError
from dcmodel.model import DcModel
from dcmodel.types import ScoreRequest, ScoreResult

pytestmark = pytest.mark.feature("score")


def random_candidates(seed: int, count: int, *, letters: int = 4, longest: int = 6):
    """Few different tokens, so that starts are shared and some candidates begin, or equal, others."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest + 1, count)
    return tuple(tuple((5 + rng.integers(0, letters, size)).tolist()) for size in sizes)


async def one_by_one(model: DcModel, prompt, candidates) -> dict[tuple[int, ...], tuple]:
    """Each different candidate in a call of its own, one after the other."""
    found = {}
    for candidate in dict.fromkeys(candidates):
        result = await model.score(ScoreRequest(prompt_ids=prompt, continuations=(candidate,)))
        found[candidate] = result.continuations[0]
    return found


def assert_as_alone(result: ScoreResult, alone: dict, tolerance: float) -> None:
    for item in result.continuations:
        expected = alone[item.token_ids]
        np.testing.assert_allclose(item.logprobs, expected.logprobs, atol=tolerance, rtol=0)
        assert item.is_greedy == expected.is_greedy


@pytest.mark.parametrize("seed", range(3))
async def test_a_tree_is_its_candidates_one_by_one(case, model, open_model, seed):
    prompt = prompt_ids(model, PROMPTS[seed])
    candidates = random_candidates(seed, 60)
    assert len(set(candidates)) < len(candidates)
    result = await model.score(ScoreRequest(prompt_ids=prompt, continuations=candidates, top_logprobs=2))
    assert tuple(item.token_ids for item in result.continuations) == candidates
    assert_as_alone(result, await one_by_one(open_model(), prompt, candidates), 2 * case.tolerance)
    if case.reference is None:
        return
    for item in result.continuations[:20]:
        context = list(prompt)
        for place, token_id in enumerate(item.token_ids):
            logprobs = case.reference(context)
            assert item.logprobs[place] == pytest.approx(logprobs[token_id], abs=case.tolerance)
            # Tokens that are equally likely, but for rounding, may stand on either side.
            surely, perhaps = (
                int((logprobs > logprobs[token_id] + 2 * margin).sum())
                for margin in (case.tolerance, -case.tolerance)
            )
            assert surely <= item.ranks[place] <= perhaps
            best = np.argsort(-logprobs, kind="stable")[:2].tolist()
            assert [top.token_id for top in item.top_logprobs[place]] == best
            context.append(token_id)


@pytest.mark.parametrize(
    "limits", [{"max_batch_tokens": 40}, {"kv_tokens": 160}, {"max_sequences": 2, "max_batch_tokens": 64}]
)
async def test_several_forwards_give_the_same(case, model, open_model, limits):
    prompt = prompt_ids(model, PROMPTS[4])
    candidates = random_candidates(9, 150, longest=8)
    request_ = ScoreRequest(prompt_ids=prompt, continuations=candidates)
    small = await open_model(**limits).score(request_)
    large = await model.score(request_)
    for left, right in zip(small.continuations, large.continuations, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=2 * case.tolerance, rtol=0)


@pytest.mark.needs("scores_beyond_the_context")
async def test_at_the_end_of_the_context(case, open_model):
    model = open_model(max_context=64)
    limit = model.info.max_positions
    prompt = tuple(5 + place % 7 for place in range(limit - 3))
    # The last token of a candidate needs no place of its own.
    candidates = (*random_candidates(1, 30, longest=3), (5, 6, 7, 8))
    result = await model.score(ScoreRequest(prompt_ids=prompt, continuations=candidates))
    assert_as_alone(
        result, await one_by_one(open_model(max_context=64), prompt, candidates), 2 * case.tolerance
    )
    long = tuple(5 + place % 3 for place in range(limit - 1))
    mixed = await model.score(ScoreRequest(prompt_ids=(9, 10), continuations=(long, (5, 6), long[:40])))
    assert [len(item.logprobs) for item in mixed.continuations] == [limit - 1, 2, 40]
    np.testing.assert_allclose(
        mixed.continuations[0].logprobs[:40],
        mixed.continuations[2].logprobs,
        atol=2 * case.tolerance,
        rtol=0,
    )


async def test_cached_is_uncached_and_company_changes_nothing(case, model, open_model):
    prompts = [prompt_ids(model, f"{PROMPTS[4]} {place}") for place in range(6)]
    candidates = random_candidates(3, 25)
    requests = [ScoreRequest(prompt_ids=prompt, continuations=candidates) for prompt in prompts]
    beside = [
        model.generate(request(model, PROMPTS[place], max_tokens=12, ignore_eos=True)) for place in range(4)
    ]
    together = await asyncio.gather(*(model.score(item) for item in requests))
    await asyncio.gather(*(stream.completion() for stream in beside))
    again = [await model.score(item) for item in requests]
    for prompt, first, second in zip(prompts, together, again, strict=True):
        alone = await one_by_one(open_model(), prompt, candidates)
        assert_as_alone(first, alone, 2 * case.tolerance)
        assert_as_alone(second, alone, 2 * case.tolerance)


async def test_the_same_suffix_after_two_cached_prompts_asked_at_once(case, model, open_model):
    """genlm-backend 0.3.1 takes both for one, and is off by 14 nats."""
    prompts = [prompt_ids(model, text) for text in (PROMPTS[0], PROMPTS[3])]
    for prompt in prompts:
        await model.score(ScoreRequest(prompt_ids=prompt, continuations=((5,),)))
    suffix = (7, 8, 9)
    found = await asyncio.gather(
        *(model.score(ScoreRequest(prompt_ids=prompt, continuations=(suffix,))) for prompt in prompts)
    )
    for prompt, result in zip(prompts, found, strict=True):
        assert_as_alone(result, await one_by_one(open_model(), prompt, [suffix]), 2 * case.tolerance)
    left, right = (result.continuations[0].logprobs for result in found)
    assert max(abs(a - b) for a, b in zip(left, right, strict=True)) > 0.01


async def test_asking_does_not_change_what_is_cached(case, model):
    """genlm-backend 0.3.1 answers a second identical call from KV that the first one has changed."""
    prompt = prompt_ids(model, PROMPTS[4])
    candidates = random_candidates(5, 12)
    request_ = ScoreRequest(prompt_ids=prompt, continuations=candidates)
    results = [await model.score(request_) for _ in range(4)]
    (then,) = await model.next_tokens([prompt])
    (longer,) = await model.next_tokens([(*prompt, *candidates[0])])
    results.append(await model.score(request_))
    for result in results[1:]:
        for left, right in zip(results[0].continuations, result.continuations, strict=True):
            np.testing.assert_allclose(left.logprobs, right.logprobs, atol=2 * case.tolerance, rtol=0)
    first = results[0].continuations[0]
    assert then.raw_logprobs[first.token_ids[0]] == pytest.approx(first.logprobs[0], abs=2 * case.tolerance)
    if case.reference is not None:
        reference = case.reference((*prompt, *candidates[0]))
        np.testing.assert_allclose(longer.raw_logprobs, reference, atol=case.tolerance, rtol=0)


async def test_the_prompts_own_log_probabilities(case, model, open_model):
    prompt = prompt_ids(model, PROMPTS[4])
    asked = ScoreRequest(prompt_ids=prompt, continuations=((5, 6), (5, 7)), prompt_logprobs=2)
    first = await model.score(asked)
    second = await model.score(asked)  # the prompt is cached now, and its rows are wanted all the same
    only = await open_model().score(ScoreRequest(prompt_ids=prompt, prompt_logprobs=2))
    assert only.continuations == ()
    for result in (first, second, only):
        assert result.prompt.token_ids == prompt[1:]
        np.testing.assert_allclose(
            result.prompt.logprobs, first.prompt.logprobs, atol=2 * case.tolerance, rtol=0
        )
        if case.reference is None:
            continue
        for place, token_id in enumerate(prompt[1:], start=1):
            logprobs = case.reference(prompt[:place])
            found = result.prompt
            assert found.logprobs[place - 1] == pytest.approx(logprobs[token_id], abs=case.tolerance)
            best = np.argsort(-logprobs, kind="stable")[:2].tolist()
            assert [top.token_id for top in found.top_logprobs[place - 1]] == best
    plain = await model.score(ScoreRequest(prompt_ids=prompt, continuations=asked.continuations))
    assert plain.prompt is None
    for left, right in zip(plain.continuations, first.continuations, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=2 * case.tolerance, rtol=0)


@pytest.mark.feature("cancel")
async def test_a_cancelled_score_frees_its_place(case, open_model):
    model = open_model(max_sequences=2)
    prompt = prompt_ids(model, PROMPTS[4])
    candidates = random_candidates(6, 80)
    request_ = ScoreRequest(prompt_ids=prompt, continuations=candidates)
    for turns in (0, 1, 5):
        task = asyncio.ensure_future(model.score(request_))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    result = await model.score(request_)
    assert_as_alone(result, await one_by_one(open_model(), prompt, candidates), 2 * case.tolerance)
    (completion,) = await run(model, [request(model, PROMPTS[0])])
    assert completion.token_ids


@pytest.mark.parametrize("length", [1, 3])
async def test_a_hundred_thousand_candidates(case, model, length):
    if case.name == "transformers":
        pytest.skip("the random model runs the same code, and is smaller")
    rng = np.random.default_rng(0)
    size = min(60, model.info.vocab_size)
    table = rng.integers(0, size, (case.candidates, length))
    candidates = tuple(map(tuple, table.tolist()))
    result = await model.score(ScoreRequest(prompt_ids=(5, 6), continuations=candidates))
    assert len(result.continuations) == case.candidates
    for place in (0, 777, case.candidates - 1):
        expected = await model.score(ScoreRequest(prompt_ids=(5, 6), continuations=(candidates[place],)))
        np.testing.assert_allclose(
            result.continuations[place].logprobs,
            expected.continuations[0].logprobs,
            atol=2 * case.tolerance,
            rtol=0,
        )


def test_nothing_to_score_is_refused():
    with pytest.raises(InvalidRequestError, match="number 1 is empty"):
        ScoreRequest(prompt_ids=(1,), continuations=((1,), ()))
    with pytest.raises(InvalidRequestError, match="nothing to score"):
        ScoreRequest(prompt_ids=(1,))
    with pytest.raises(InvalidRequestError, match="one token"):
        ScoreRequest(prompt_ids=(1,), prompt_logprobs=0)
    with pytest.raises(InvalidRequestError, match="prompt_logprobs"):
        ScoreRequest(prompt_ids=(1, 2), prompt_logprobs=-1)
