"""What a backend says is what the model says: greedy, batched, cached, chunked, streamed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from conformance.requests import PROMPTS, Gate, assert_same, mixed_requests, request, run, run_one

from dcmodel.types import FinishReason, ScoreRequest

pytestmark = pytest.mark.feature("generate")

TWICE = 2.0  # both sides of a comparison may be off by the tolerance


async def check_greedy_against_reference(case, model, completion, prompt) -> None:
    """Each token is the reference's likeliest, with the reference's log-probability."""
    context = list(prompt)
    if case.reference is None:
        scored = await model.score(ScoreRequest(prompt_ids=prompt, continuations=(completion.token_ids,)))
        assert scored.continuations[0].is_greedy
        expected = scored.continuations[0].logprobs
    else:
        expected = []
        for token_id in completion.token_ids:
            logprobs = case.reference(context)
            assert logprobs[token_id] >= logprobs.max() - case.tolerance
            expected.append(logprobs[token_id])
            context.append(token_id)
    got = [item.raw_logprob for item in completion.logprobs]
    np.testing.assert_allclose(got, expected, atol=case.tolerance, rtol=0)


@pytest.mark.parametrize("count", [1, 8, 32])
async def test_greedy_equals_the_reference(case, model, count):
    requests = mixed_requests(model, count)
    for item, completion in zip(requests, await run(model, requests), strict=True):
        await check_greedy_against_reference(case, model, completion, item.prompt_ids)


async def test_batched_equals_alone(case, model, open_model):
    requests = mixed_requests(model, 8)
    together = await run(model, requests)
    other = open_model()
    for item, completion in zip(requests, together, strict=True):
        assert_same(completion, await run_one(other, item), TWICE * case.tolerance)


async def test_cached_equals_uncached(case, model, open_model):
    long = request(model, " ".join(PROMPTS) * 2, max_tokens=10)
    fresh = await run_one(model, long)
    again = await run_one(model, long)
    shorter = request(model, " ".join(PROMPTS) + " and now something else", max_tokens=10)
    reused = await run_one(model, shorter)
    assert_same(fresh, again, TWICE * case.tolerance)
    assert_same(reused, await run_one(open_model(), shorter), TWICE * case.tolerance)
    if case.options:  # an engine under our scheduler must reuse
        assert fresh.usage.cached_tokens == 0
        assert again.usage.cached_tokens >= len(long.prompt_ids) - case.kv_block
        assert reused.usage.cached_tokens > 0


@pytest.mark.parametrize("count", [8, 32])
async def test_requests_that_share_a_prefix_equal_those_that_ran_alone(case, model, open_model, count):
    shared = " ".join(PROMPTS)
    requests = [request(model, f"{shared} {i}", max_tokens=5) for i in range(count)]
    together = await run(model, requests)
    other = open_model()
    for item, completion in zip(requests[:8], together, strict=False):
        assert_same(completion, await run_one(other, item), TWICE * case.tolerance)
    if case.options:
        assert sum(completion.usage.cached_tokens > 0 for completion in together) >= count - 1


@pytest.mark.parametrize("chunk", [1, 3, 7, 32])
async def test_chunked_prefill_changes_nothing(case, open_model, chunk):
    chunked, whole = open_model(max_batch_tokens=chunk), open_model()
    requests = mixed_requests(whole, 4)
    for left, right in zip(await run(chunked, requests), await run(whole, requests), strict=True):
        assert_same(left, right, TWICE * case.tolerance)


async def test_more_requests_than_fit_wait_or_are_recomputed(case, open_model):
    tight = open_model(max_context=128, kv_tokens=256, max_sequences=3)
    roomy = open_model()
    requests = [request(roomy, PROMPTS[i % 4], max_tokens=30 + i) for i in range(12)]
    for left, right in zip(await run(tight, requests), await run(roomy, requests), strict=True):
        assert_same(left, right, TWICE * case.tolerance)


@pytest.mark.feature("streaming")
async def test_a_stream_is_its_completion(case, model):
    item = request(model, PROMPTS[0], max_tokens=16, temperature=1.0, seed=3)
    stream = model.generate(item)
    steps = [step async for step in stream]
    completion = await stream.completion()
    assert tuple(step.token_id for step in steps) == completion.token_ids
    assert "".join(step.text for step in steps) == completion.text
    assert tuple(step.logprobs for step in steps) == completion.logprobs
    assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)
    assert steps[-1].finish_reason == completion.finish_reason
    assert model.tokenizer.decode(completion.token_ids) == completion.text


async def test_max_tokens_holds(case, model):
    for count in (1, 2, 9):
        completion = await run_one(model, request(model, "yes", max_tokens=count, ignore_eos=True))
        assert len(completion.token_ids) == count
        assert completion.finish_reason is FinishReason.LENGTH
        assert completion.stop_reason == "max_tokens"
        assert completion.usage.completion_tokens == count


@pytest.mark.needs("any_bias")
async def test_the_end_of_sequence_token_ends(case, model):
    (eos, *_) = model.tokenizer.eos_token_ids
    completion = await run_one(model, request(model, "yes", logit_bias={eos: 1000.0}))
    assert completion.token_ids == (eos,)
    assert (completion.text, completion.finish_reason, completion.stop_reason) == (
        "",
        FinishReason.STOP,
        "eos",
    )


async def test_the_context_ends_a_generation(case, open_model):
    model = open_model(max_context=32)
    item = request(model, "yes", max_tokens=1000, ignore_eos=True)
    completion = await run_one(model, item)
    assert len(item.prompt_ids) + len(completion.token_ids) == 32
    assert (completion.finish_reason, completion.stop_reason) == (FinishReason.LENGTH, "context")


@pytest.mark.feature("streaming")
async def test_stop_strings_end_across_token_borders(case, model):
    free = await run_one(model, request(model, PROMPTS[0], max_tokens=24))
    text = free.text
    middle = next(i for i in range(len(text) // 3, len(text) - 3) if "\ufffd" not in text[i : i + 3])
    phrase = text[middle : middle + 3]
    before = text[: text.index(phrase)]
    stopped = await run_one(model, request(model, PROMPTS[0], max_tokens=24, stop=(phrase, "never\0")))
    assert stopped.text == before
    assert (stopped.finish_reason, stopped.stop_reason) == (FinishReason.STOP, f"stop:{phrase}")
    kept = await run_one(model, request(model, PROMPTS[0], max_tokens=24, stop=(phrase,), include_stop=True))
    assert kept.text == before + phrase
    stream = model.generate(request(model, PROMPTS[0], max_tokens=24, stop=(phrase,)))
    assert "".join([step.text async for step in stream]) == before


@pytest.mark.feature("streaming")
async def test_a_stream_gives_whole_characters_only(case, model):
    for seed in range(4):
        stream = model.generate(request(model, PROMPTS[6], temperature=2.0, seed=seed, max_tokens=30))
        steps = [step async for step in stream]
        whole = b"".join(
            model.tokenizer.token_bytes(step.token_id)
            for step in steps
            if step.token_id not in model.tokenizer.special_token_ids
        )
        assert "".join(step.text for step in steps) == whole.decode("utf-8", errors="replace")


@pytest.mark.feature("cancel")
async def test_cancelling_takes_effect_within_one_step_and_hurts_nobody(case, model):
    neighbour_request = request(model, PROMPTS[1], max_tokens=20, ignore_eos=True)
    alone = await run_one(model, neighbour_request)
    gate = Gate(after=3)
    victim = model.generate(request(model, PROMPTS[0], max_tokens=300, constraint=gate.constraint()))
    neighbour = model.generate(neighbour_request)
    first = await anext(victim)
    victim.cancel()
    gate.open()
    completion = await asyncio.wait_for(victim.completion(), 60)
    assert completion.finish_reason is FinishReason.CANCELLED
    assert completion.token_ids[0] == first.token_id
    assert len(completion.token_ids) <= 4
    assert_same(await neighbour.completion(), alone, TWICE * case.tolerance)
    victim.cancel()  # a second time: nothing happens
    assert (await run_one(model, neighbour_request)).token_ids == alone.token_ids


@pytest.mark.feature("cancel")
async def test_a_cancelled_request_frees_its_place(case, open_model):
    model = open_model(max_sequences=1)
    gate = Gate(after=2)
    victim = model.generate(request(model, PROMPTS[0], max_tokens=300, constraint=gate.constraint()))
    waiting = model.generate(request(model, PROMPTS[1], max_tokens=3))
    await anext(victim)
    victim.cancel()
    gate.open()
    assert (await asyncio.wait_for(waiting.completion(), 60)).token_ids
    assert gate.reached <= 3


@pytest.mark.feature("cancel")
async def test_a_dropped_stream_is_cancelled(case, model):
    gate = Gate(after=2)
    stream = model.generate(request(model, PROMPTS[0], max_tokens=300, constraint=gate.constraint()))
    await anext(stream)
    del stream
    gate.open()
    assert (await run_one(model, request(model, PROMPTS[1], max_tokens=10))).token_ids
    assert gate.reached <= 3
