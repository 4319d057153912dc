"""Scores on real transformers models: each a plain forward's, whatever is cached or runs beside it."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from conformance.backends import Case, random_case, registered_case

from dcmodel.types import GenerateRequest, ScoreRequest

TOLERANCE = 1e-4
"""Nats, in float32."""


@pytest.fixture(scope="module", params=["random", "embedded"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "random":
        return random_case(tmp_path_factory.mktemp("random-llama"))
    return registered_case("transformers", None)


def draw(seed: int, vocab_size: int, *, prompt: int = 20, count: int = 12) -> ScoreRequest:
    """Candidates of one to four of five tokens: they share starts, and some begin others."""
    generator = random.Random(seed)
    ids = range(5, vocab_size)
    letters = generator.sample(ids, 5)
    return ScoreRequest(
        prompt_ids=tuple(generator.choices(ids, k=prompt)),
        continuations=tuple(
            tuple(generator.choices(letters, k=generator.randint(1, 4))) for _ in range(count)
        ),
    )


def reference(case: Case, request: ScoreRequest) -> list[list[float]]:
    """From one unpadded forward of the unmodified model per token."""
    return [
        [
            float(case.reference((*request.prompt_ids, *item[:place]))[token_id])
            for place, token_id in enumerate(item)
        ]
        for item in request.continuations
    ]


def assert_scores(result, expected: list[list[float]]) -> None:
    for found, wanted in zip(result.continuations, expected, strict=True):
        np.testing.assert_allclose(found.logprobs, wanted, atol=TOLERANCE, rtol=0)


async def test_uncached_then_cached_then_one_by_one(case):
    async with case.open() as model:
        request = draw(1, model.info.vocab_size)
        expected = reference(case, request)
        for _ in range(3):  # a second and a third call read what the first one left in the cache
            assert_scores(await model.score(request), expected)
        for item, wanted in zip(request.continuations, expected, strict=True):
            alone = ScoreRequest(prompt_ids=request.prompt_ids, continuations=(item,))
            assert_scores(await model.score(alone), [wanted])


async def test_in_company(case):
    async with case.open() as model:
        requests = [draw(seed, model.info.vocab_size) for seed in range(2, 5)]
        streams = [
            model.generate(GenerateRequest(prompt_ids=item.prompt_ids[:9], max_tokens=15, ignore_eos=True))
            for item in requests
        ]
        await anext(streams[0])
        found = await asyncio.gather(*(model.score(item) for item in requests))
        await asyncio.gather(*(stream.completion() for stream in streams))
        for request, result in zip(requests, found, strict=True):
            assert_scores(result, reference(case, request))


async def test_one_suffix_behind_two_cached_prompts(case):
    """genlm-backend 0.3.1 takes both for one: the second prompt gets the first one's numbers."""
    async with case.open() as model:
        first, second = draw(5, model.info.vocab_size), draw(6, model.info.vocab_size)
        requests = [
            ScoreRequest(prompt_ids=item.prompt_ids, continuations=first.continuations)
            for item in (first, second)
        ]
        for item in requests:
            await model.next_tokens([item.prompt_ids], k=1)
        for item, result in zip(
            requests, await asyncio.gather(*(model.score(item) for item in requests)), strict=True
        ):
            assert_scores(result, reference(case, item))


async def test_ways_of_asking_in_turns(case):
    """genlm-backend 0.3.1 is off in a sync call after an async one, and in the same call again."""
    async with case.open() as model:
        request = draw(7, model.info.vocab_size)
        expected = reference(case, request)
        longer = (*request.prompt_ids, *request.continuations[0])
        after = case.reference(longer)
        session = await model.session(GenerateRequest(prompt_ids=request.prompt_ids, max_tokens=10))
        session.append(request.continuations[0])
        for _ in range(2):
            assert_scores(await model.score(request), expected)
            (look,) = await model.next_tokens([longer])
            np.testing.assert_allclose(look.raw_logprobs, after, atol=TOLERANCE, rtol=0)
            step = await session.logprobs()
            np.testing.assert_allclose(step.raw_logprobs, after, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(session.token_logprobs, expected[0], atol=TOLERANCE, rtol=0)
