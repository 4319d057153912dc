"""Scores are the model's own, and the same numbers that generation reports."""

from __future__ import annotations

import numpy as np
import pytest
from conformance.requests import PROMPTS, mixed_requests, prompt_ids, request, run, run_one

from dcmodel.errors import ContextLengthError, TokenRangeError
from dcmodel.types import ScoreRequest

pytestmark = pytest.mark.feature("score")


def continuations(model) -> tuple[tuple[int, ...], ...]:
    texts = (
        " yes",
        " no",
        " maybe",
        " yes and no",
        " yes and",
        "🐢",
        '{"a": 1}',
        " a rather long answer 123",
    )
    return tuple(tuple(model.tokenizer.encode(text)) for text in texts)


async def test_scores_equal_the_reference(case, model):
    if case.reference is None:
        pytest.skip(f"{case.name} has no plain reference")
    prompt = prompt_ids(model, PROMPTS[4])
    result = await model.score(
        ScoreRequest(prompt_ids=prompt, continuations=continuations(model), top_logprobs=3)
    )
    for asked, scored in zip(continuations(model), result.continuations, strict=True):
        assert scored.token_ids == asked
        context = list(prompt)
        for place, token_id in enumerate(asked):
            logprobs = case.reference(context)
            assert abs(scored.logprobs[place] - logprobs[token_id]) <= case.tolerance
            assert scored.ranks[place] == int((logprobs > logprobs[token_id]).sum())
            best = np.argsort(-logprobs)[:3].tolist()
            assert [top.token_id for top in scored.top_logprobs[place]] == best
            context.append(token_id)
        assert scored.logprob == pytest.approx(sum(scored.logprobs))


async def test_the_score_of_a_generation_is_the_sum_of_its_steps(case, model):
    for item in mixed_requests(model, 6, temperature=1.0, seed=5):
        completion = await run_one(model, item)
        request_ = ScoreRequest(prompt_ids=item.prompt_ids, continuations=(completion.token_ids,))
        (scored,) = (await model.score(request_)).continuations
        steps = [entry.raw_logprob for entry in completion.logprobs]
        np.testing.assert_allclose(scored.logprobs, steps, atol=2 * case.tolerance, rtol=0)
        assert completion.raw_logprob == pytest.approx(sum(steps))


async def test_scoring_together_equals_scoring_alone(case, model, open_model):
    prompt = prompt_ids(model, PROMPTS[0])
    asked = continuations(model)
    together = await model.score(ScoreRequest(prompt_ids=prompt, continuations=asked))
    other = open_model()
    for continuation, scored in zip(asked, together.continuations, strict=True):
        alone = await other.score(ScoreRequest(prompt_ids=prompt, continuations=(continuation,)))
        np.testing.assert_allclose(
            scored.logprobs, alone.continuations[0].logprobs, atol=2 * case.tolerance, rtol=0
        )


async def test_scoring_beside_generation_changes_neither(case, model, open_model):
    item = request(model, PROMPTS[1], max_tokens=20, ignore_eos=True)
    stream = model.generate(item)
    await anext(stream)
    score_request = ScoreRequest(prompt_ids=prompt_ids(model, PROMPTS[0]), continuations=continuations(model))
    beside = await model.score(score_request)
    completion = await stream.completion()
    other = open_model()
    assert completion.token_ids == (await run(other, [item]))[0].token_ids
    alone = await other.score(score_request)
    for left, right in zip(beside.continuations, alone.continuations, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=2 * case.tolerance, rtol=0)


async def test_bad_scores_are_refused_at_the_door(case, open_model):
    model = open_model(max_context=64) if case.options else open_model()
    limit = model.info.max_positions
    prompt = prompt_ids(model, "yes")
    with pytest.raises(TokenRangeError, match=str(10**9)):
        await model.score(ScoreRequest(prompt_ids=prompt, continuations=((10**9,),)))
    with pytest.raises(ContextLengthError, match=str(limit)):
        await model.score(ScoreRequest(prompt_ids=prompt, continuations=((5,) * (limit + 1),)))
    # Exactly full is fine: the last token needs no place of its own.
    fits = (5,) * (limit - len(prompt))
    (scored,) = (await model.score(ScoreRequest(prompt_ids=prompt, continuations=(fits,)))).continuations
    assert len(scored.logprobs) == len(fits)
