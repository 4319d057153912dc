"""What scoring and sessions ask of the engine: each token once, together where it fits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.errors import EngineError, NonFiniteLogitsError
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest, TokenLogprobs

PROMPT = tuple(range(10, 40))


def open_model(**options):
    loaded = loaded_fake(small_tokenizer(), **options)
    return LocalDcModel(loaded), loaded.engine


def random_candidates(count: int, *, seed: int = 0, longest: int = 5) -> tuple[tuple[int, ...], ...]:
    rng = np.random.default_rng(seed)
    return tuple(tuple(rng.integers(0, 4, rng.integers(1, longest + 1)).tolist()) for _ in range(count))


def num_inner(candidates) -> int:
    return len({item[:end] for item in candidates for end in range(1, len(item))})


def check(engine, prompt, result):
    for item in result.continuations:
        context = list(prompt)
        for token_id, logprob in zip(item.token_ids, item.logprobs, strict=True):
            logits = engine.model.logits(context).astype(np.float64)
            expected = logits[token_id] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert logprob == pytest.approx(expected, abs=1e-5)
            context.append(token_id)


async def test_prompt_and_tree_are_one_forward():
    model, engine = open_model(max_branch_tokens=200)
    candidates = random_candidates(20)
    check(engine, PROMPT, await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=candidates)))
    assert [batch.num_tokens for batch in engine.batches] == [len(PROMPT) + num_inner(candidates)]
    # A second time only the prompt's last token is computed, in the same place.
    engine.batches.clear()
    others = random_candidates(20, seed=1)
    check(engine, PROMPT, await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=others)))
    assert [batch.num_tokens for batch in engine.batches] == [1 + num_inner(others)]
    assert engine.copies == 0
    assert len(engine.sequences) == 1
    await model.aclose()


@pytest.mark.parametrize(
    "limits",
    [
        {"max_branch_tokens": 12},
        {"max_batch_rows": 16},
        {"max_batch_tokens": 20, "max_branch_tokens": 20},
        {"max_branch_tokens": 0},
    ],
)
async def test_several_forwards_where_one_does_not_fit(limits):
    model, engine = open_model(**limits)
    candidates = random_candidates(60)
    check(engine, PROMPT, await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=candidates)))
    assert len(engine.batches) > 1
    await model.aclose()


async def test_several_prompts_share_a_forward_and_their_beginning():
    model, engine = open_model(max_batch_tokens=256)
    shared = tuple(range(50, 90))
    questions = [(*shared, 100 + place, 7, 8, 9) for place in range(8)]
    options = random_candidates(4)
    results = await asyncio.gather(
        *(model.score(ScoreRequest(prompt_ids=question, continuations=options)) for question in questions)
    )
    for question, result in zip(questions, results, strict=True):
        check(engine, question, result)
    assert len(engine.batches) == 2
    assert engine.batches[1].num_tokens == 7 * (4 + num_inner(options))
    await model.aclose()


async def test_a_candidate_too_long_for_branches_shares_the_prompt():
    model, engine = open_model(max_branch_tokens=16)
    long = tuple(np.random.default_rng(0).integers(0, 50, 60).tolist())
    candidates = (long, (1, 2), long[:50], (3,))
    check(engine, PROMPT, await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=candidates)))
    computed = sum(batch.num_tokens for batch in engine.batches)
    assert computed <= len(PROMPT) + 2 * 60 + 8
    await model.aclose()


async def test_a_candidate_that_fails_fails_its_own_request_only():
    model, engine = open_model(nan_token=49, crash_token=48)
    fine = ScoreRequest(prompt_ids=PROMPT, continuations=((1, 2, 3), (4, 5)))
    broken = ScoreRequest(prompt_ids=(5, 6), continuations=((1, 49, 3), (1, 2)))
    crashing = ScoreRequest(prompt_ids=(7, 8), continuations=((1, 48, 3), (1, 2)))
    results = await asyncio.gather(
        model.score(fine), model.score(broken), model.score(crashing), return_exceptions=True
    )
    check(engine, PROMPT, results[0])
    assert isinstance(results[1], NonFiniteLogitsError)
    assert isinstance(results[2], EngineError)
    # The last token of a candidate is only looked up, so that what it would do is of no importance.
    check(engine, (5, 6), await model.score(ScoreRequest(prompt_ids=(5, 6), continuations=((1, 49),))))
    await model.aclose()


async def test_sessions_asked_in_one_turn_share_each_forward():
    model, engine = open_model()
    item = GenerateRequest(
        prompt_ids=PROMPT, sampling=SamplingParams(temperature=1.0, seed=3), ignore_eos=True
    )
    session = await model.session(item)
    await session.step()
    forks = [session.fork() for _ in range(6)]
    await asyncio.gather(*(fork.step() for fork in forks))
    engine.batches.clear()
    for _ in range(4):
        await asyncio.gather(*(fork.step() for fork in forks))
    # The first time, forks that begin alike are given their own copies of what they share.
    assert [batch.num_tokens for batch in engine.batches][1:] == [6, 6, 6]
    assert engine.copies <= 12
    await model.aclose()


async def test_appended_tokens_are_scored_in_the_step_that_follows():
    model, engine = open_model()
    session = await model.session(GenerateRequest(prompt_ids=PROMPT, ignore_eos=True))
    await session.step()
    engine.batches.clear()
    session.append([3, 4, 5])
    await session.logprobs(k=1)
    assert [(batch.num_tokens, batch.num_rows) for batch in engine.batches] == [(4, 4)]
    assert len(session.token_logprobs) == 4
    session.append([6], logprobs=[TokenLogprobs(raw_logprob=-1.0, masked_logprob=-1.0, log_mass=0.0)])
    await session.logprobs(k=1)
    assert [(batch.num_tokens, batch.num_rows) for batch in engine.batches] == [(4, 4), (1, 1)]
    assert session.token_logprobs[-1] == -1.0
    await model.aclose()


async def test_a_given_text_may_fill_the_whole_cache():
    model, engine = open_model(kv_tokens=200, max_positions=200)
    long = tuple(np.random.default_rng(0).integers(0, 50, 200).tolist())
    check(engine, (5,), await model.score(ScoreRequest(prompt_ids=(5,), continuations=(long,))))
    await model.aclose()


async def test_an_engine_that_cannot_take_a_sequence_in_fails_that_one_only(monkeypatch):
    model, engine = open_model()
    allocate = engine.allocate
    calls = []

    def failing(length):
        calls.append(length)
        if len(calls) == 2:
            raise MemoryError("no memory left")
        return allocate(length)

    monkeypatch.setattr(engine, "allocate", failing)
    prompts = [(place, 2, 3) for place in range(4)]
    results = await asyncio.gather(
        *(model.score(ScoreRequest(prompt_ids=prompt, continuations=((1, 2),))) for prompt in prompts),
        return_exceptions=True,
    )
    failed = [item for item in results if isinstance(item, Exception)]
    assert [type(item) for item in failed] == [EngineError]
    assert "no memory left" in str(failed[0])
    await model.aclose()
