"""Sampling parameters against the reference distribution; seeds; reported log-probabilities."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from conformance.requests import PROMPTS, assert_same, mixed_requests, prompt_ids, request, run, run_one

from dcmodel.constraints import TokenSet

pytestmark = pytest.mark.feature("generate")


def require_reference(case):
    if case.reference is None:
        pytest.skip(f"{case.name} has no plain reference")
    return case.reference


async def draw_first_tokens(model, count, **options) -> Counter[int]:
    requests = [
        request(model, PROMPTS[0], max_tokens=1, seed=seed, logprobs=False, ignore_eos=True, **options)
        for seed in range(count)
    ]
    return Counter(completion.token_ids[0] for completion in await run(model, requests))


def total_variation(counts: Counter[int], expected: np.ndarray) -> float:
    got = np.zeros_like(expected)
    for token_id, count in counts.items():
        got[token_id] = count
    return 0.5 * float(np.abs(got / got.sum() - expected).sum())


def noise(expected: np.ndarray, count: int) -> float:
    """Expected total variation of `count` draws from `expected`, and half as much again."""
    return 1.5 * 0.5 * float(np.sqrt(2 * expected * (1 - expected) / (math.pi * count)).sum()) + 1e-9


@pytest.mark.parametrize("temperature", [0.5, 1.0])
async def test_samples_follow_the_distribution(case, model, temperature):
    logprobs = require_reference(case)(prompt_ids(model, PROMPTS[0]))
    expected = np.exp(logprobs / temperature)
    expected /= expected.sum()
    counts = await draw_first_tokens(model, case.draws, temperature=temperature)
    assert total_variation(counts, expected) < noise(expected, case.draws)


@pytest.mark.parametrize(
    "options",
    [{"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 5, "top_p": 0.8, "min_p": 0.05}],
    ids=lambda options: "+".join(options),
)
async def test_truncation_keeps_what_the_definition_keeps(case, model, options):
    probabilities = np.exp(require_reference(case)(prompt_ids(model, PROMPTS[0])))
    expected = truncate(probabilities, **options)
    counts = await draw_first_tokens(model, case.draws // 2, temperature=1.0, **options)
    assert all(expected[token_id] > 0 for token_id in counts)
    assert total_variation(counts, expected) < noise(expected, case.draws // 2)


def truncate(probabilities, top_k=0, top_p=1.0, min_p=0.0):
    order = np.argsort(-probabilities)
    kept = probabilities.copy()
    if top_k:
        kept[order[top_k:]] = 0
    if top_p < 1:
        kept /= kept.sum()
        before = np.cumsum(kept[order]) - kept[order]
        kept[order[before >= top_p]] = 0
    if min_p:
        kept[kept < min_p * kept.max()] = 0
    return kept / kept.sum()


async def test_a_seed_gives_the_same_tokens_whatever_else_runs(case, model, open_model):
    item = request(model, PROMPTS[2], temperature=1.2, seed=42, max_tokens=12)
    crowd = mixed_requests(model, 9, temperature=1.0)
    together = (await run(model, [*crowd[:4], item, *crowd[4:]]))[4]
    assert_same(together, await run_one(open_model(), item), 2 * case.tolerance)
    others = await run(
        model, [request(model, PROMPTS[2], temperature=1.2, seed=s, max_tokens=12) for s in range(6)]
    )
    assert len({other.token_ids for other in others}) > 1


async def test_without_a_seed_samples_differ(case, model):
    completions = await run(
        model, [request(model, PROMPTS[0], temperature=1.5, ignore_eos=True) for _ in range(6)]
    )
    assert len({completion.token_ids for completion in completions}) > 1


async def test_penalties_and_bias_change_greedy_as_defined(case, model):
    require_reference(case)
    options = {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.7,
        "frequency_penalty": 0.4,
        "logit_bias": {5: 2.0, 7: -3.0},
    }
    item = request(model, PROMPTS[0], max_tokens=16, ignore_eos=True, **options)
    completion = await run_one(model, item)
    context, output = list(item.prompt_ids), Counter()
    for token_id in completion.token_ids:
        logits = case.logits(context).astype(np.float64)
        for seen in set(context):
            logits[seen] = logits[seen] / 1.3 if logits[seen] > 0 else logits[seen] * 1.3
        for seen, count in output.items():
            logits[seen] -= 0.7 + 0.4 * count
        for biased, value in options["logit_bias"].items():
            logits[biased] += value
        assert logits[token_id] >= logits.max() - 1e-3
        context.append(token_id)
        output[token_id] += 1


@pytest.mark.feature("masks")
@pytest.mark.needs("log_mass")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_top_logprobs_before_and_after_the_mask(case, model, temperature):
    reference = require_reference(case)
    allowed = frozenset(range(40, 90))
    item = request(
        model,
        PROMPTS[0],
        max_tokens=6,
        temperature=temperature,
        seed=1,
        top_logprobs=5,
        constraint=TokenSet(allowed),
    )
    completion = await run_one(model, item)
    context = list(item.prompt_ids)
    for place, (token_id, entry) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
        logprobs = reference(context)
        legal = sorted(allowed | (set(model.tokenizer.eos_token_ids) if place else set()))
        mass = np.logaddexp.reduce(logprobs[legal])
        assert abs(entry.raw_logprob - logprobs[token_id]) <= case.tolerance
        assert abs(entry.log_mass - mass) <= 2 * case.tolerance
        assert abs(entry.masked_logprob - (entry.raw_logprob - entry.log_mass)) <= 1e-5
        best = np.argsort(-logprobs)[:5]
        np.testing.assert_allclose(
            [top.logprob for top in entry.top_raw], logprobs[best], atol=case.tolerance, rtol=0
        )
        assert [top.token_id for top in entry.top_raw] == best.tolist()
        best = np.array(legal)[np.argsort(-logprobs[legal])[:5]]
        assert [top.token_id for top in entry.top_masked] == best.tolist()
        np.testing.assert_allclose(
            [top.logprob for top in entry.top_masked], logprobs[best] - mass, atol=3 * case.tolerance, rtol=0
        )
        context.append(token_id)


async def test_logprobs_can_be_left_out(case, model):
    completion = await run_one(model, request(model, PROMPTS[0], logprobs=False))
    assert completion.logprobs is None
