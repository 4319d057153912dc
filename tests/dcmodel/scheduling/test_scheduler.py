"""The scheduler on a fake engine: batching, sharing, eviction, preemption, faults."""

from __future__ import annotations

import asyncio

import pytest
from conformance.requests import Gate, assert_same, request, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.errors import EngineError, NonFiniteLogitsError, OverloadedError
from dcmodel.local import LocalDcModel
from dcmodel.scheduling.scheduler import Scheduler
from dcmodel.scheduling.sequence import Sequence
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest


@pytest.fixture
async def opened():
    """Makes (model, engine) pairs and closes them."""
    models = []

    def make(**options):
        loaded = loaded_fake(small_tokenizer(), **options)
        models.append(LocalDcModel(loaded))
        return models[-1], loaded.engine

    yield make
    for model in models:
        await model.aclose()


def ids(*token_ids: int, **options) -> GenerateRequest:
    options.setdefault("max_tokens", 8)
    return GenerateRequest(prompt_ids=token_ids, ignore_eos=True, **options)


async def test_concurrent_requests_share_forwards(opened):
    model, engine = opened()
    gate = Gate(after=2)  # all eight have arrived when the next step begins
    held = model.generate(request(model, "yes", max_tokens=3, constraint=gate.constraint()))
    await anext(held)
    streams = [model.generate(ids(3, 4 + i, max_tokens=20)) for i in range(8)]
    gate.open()
    for stream in streams:
        await stream.completion()
    assert len(engine.batches) <= 3 + 20


async def test_a_shared_prompt_is_computed_once(opened):
    model, engine = opened(max_batch_tokens=64)
    shared = tuple(range(3, 203))
    completions = await run(model, [ids(*shared, 300 + i, max_tokens=2) for i in range(10)])
    computed = sum(batch.num_tokens for batch in engine.batches)
    assert computed < 200 + 10 * 6
    assert sorted(completion.usage.cached_tokens for completion in completions) == [0] + [200] * 9


async def test_a_session_that_extends_its_prompt_computes_only_what_is_new(opened):
    model, engine = opened()
    prompt = tuple(range(3, 60))
    for _ in range(5):
        before = sum(batch.num_tokens for batch in engine.batches)
        completion = await run_one(model, ids(*prompt, max_tokens=1))
        computed = sum(batch.num_tokens for batch in engine.batches) - before
        prompt += completion.token_ids
        assert computed in (57, 1)
    assert computed == 1
    assert engine.copies == 0, "the prefix was taken over in place"


async def test_idle_prefixes_give_way_to_new_requests(opened):
    model, engine = opened(max_sequences=4, kv_tokens=1024, max_positions=256)
    for i in range(20):
        completion = await run_one(model, ids(*range(3 + i, 103 + i), max_tokens=3))
        assert len(completion.token_ids) == 3
    assert len(engine.sequences) <= 4


async def test_where_idle_kv_costs_time_it_goes_when_it_has_cost_as_much_as_it_saves(opened):
    model, engine = opened(idle_tokens=100)
    first = ids(*range(3, 43), max_tokens=2)
    await run_one(model, first)
    await run_one(model, ids(*range(103, 143), max_tokens=2))
    assert (await run_one(model, first)).usage.cached_tokens == 39, "it was used in time"
    await run_one(model, ids(*range(203, 263), max_tokens=50))
    assert (await run_one(model, first)).usage.cached_tokens == 0
    assert len(engine.sequences) == 2


async def test_sessions_that_take_turns_keep_their_kv_where_it_costs_time(opened):
    model, engine = opened(idle_tokens=100)
    sessions = [await model.session(ids(*range(3 + i, 43 + i), max_tokens=20)) for i in range(8)]
    await asyncio.gather(*(session.step() for session in sessions))
    before = sum(batch.num_tokens for batch in engine.batches)
    for _ in range(10):
        for session in sessions:
            await session.step()
    assert sum(batch.num_tokens for batch in engine.batches) - before == 80, "one token each"


async def test_under_pressure_sequences_are_recomputed_and_nothing_changes(opened):
    roomy, _ = opened()
    tight, engine = opened(max_sequences=8, kv_tokens=160, max_positions=150)
    requests = [
        ids(*range(3 + 7 * i, 13 + 7 * i), max_tokens=130, sampling=SamplingParams(temperature=1.0, seed=i))
        for i in range(5)
    ]
    expected = await run(roomy, requests)
    for left, right in zip(await run(tight, requests), expected, strict=True):
        assert_same(left, right, 1e-5)
    assert len(engine.sequences) <= 8


async def test_forced_tokens_of_a_preempted_sequence_keep_their_scores(opened):
    from dcmodel.constraints import Regex

    roomy, _ = opened()
    tight, _ = opened(max_sequences=8, kv_tokens=160, max_positions=150)
    constraint = Regex("(The quick brown fox (jumps|sleeps) over the lazy dog. ){3}")
    requests = [
        request(roomy, f"{i}" * 20, constraint=constraint, max_tokens=100, temperature=1.0, seed=i)
        for i in range(4)
    ]
    expected = await run(roomy, requests)
    for left, right in zip(await run(tight, requests), expected, strict=True):
        assert_same(left, right, 1e-5)


async def test_nan_logits_fail_their_own_request_only(opened):
    model, _ = opened(nan_token=300)
    good = ids(3, 4, 5)
    alone = await run_one(model, good)
    streams = [model.generate(good), model.generate(ids(3, 300)), model.generate(good)]
    with pytest.raises(NonFiniteLogitsError, match="NaN"):
        await streams[1].completion()
    for stream in (streams[0], streams[2]):
        assert_same(await stream.completion(), alone, 1e-5)
    with pytest.raises(NonFiniteLogitsError):
        await model.score(ScoreRequest(prompt_ids=(3, 300), continuations=((5, 6),)))


async def test_a_crash_in_the_engine_fails_the_guilty_request_only(opened, caplog):
    model, _ = opened(crash_token=301)
    good = ids(3, 4, 5, max_tokens=20)
    alone = await run_one(model, good)
    streams = [model.generate(good), model.generate(ids(3, 301)), model.generate(good)]
    with pytest.raises(EngineError, match="the engine crashed"):
        await streams[1].completion()
    for stream in (streams[0], streams[2]):
        assert_same(await stream.completion(), alone, 1e-5)
    assert "failed in the engine" in caplog.text


async def test_a_failed_request_gives_its_kv_back(opened):
    model, engine = opened(nan_token=300, max_sequences=2)
    for _ in range(6):
        with pytest.raises(NonFiniteLogitsError):
            await run_one(model, ids(3, 300))
    assert len((await run_one(model, ids(3, 4))).token_ids) == 8
    assert len(engine.sequences) <= 2


async def test_cancelled_while_waiting_never_runs(opened):
    model, engine = opened(max_sequences=1)
    running = model.generate(ids(3, 4, max_tokens=200))
    await anext(running)
    waiting = model.generate(ids(9, 9, 9))
    waiting.cancel()
    completion = await asyncio.wait_for(waiting.completion(), 30)
    assert (completion.token_ids, completion.finish_reason) == ((), "cancelled")
    running.cancel()
    await running.completion()
    assert not any(9 in span.token_ids for batch in engine.batches for span in batch.spans)


async def test_cancelling_the_waiting_task_cancels_the_request(opened):
    model, _ = opened()
    gate = Gate(after=2)
    stream = model.generate(request(model, "yes", max_tokens=300, constraint=gate.constraint()))
    await anext(stream)
    task = asyncio.create_task(stream.completion())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await run_one(model, ids(5, 6))
    assert gate.reached <= 3


async def test_long_prompts_do_not_stop_those_that_decode(opened):
    model, engine = opened(max_batch_tokens=16, max_positions=512)
    decoding = model.generate(ids(3, 4, max_tokens=400))
    await anext(decoding)
    long = model.generate(ids(*range(5, 305), max_tokens=2))
    await decoding.completion()
    await long.completion()
    mixed = [batch for batch in engine.batches if len(batch.spans) == 2]
    assert len(mixed) >= 10
    assert all(batch.num_tokens <= 16 for batch in engine.batches)


def test_too_many_waiting_requests_are_refused_and_can_be_retried():
    engine = loaded_fake(small_tokenizer(), max_sequences=1).engine
    scheduler = Scheduler(engine, 384, max_waiting=2)
    try:
        sequences = [Sequence((3,), sampling=SamplingParams(), seed=0, limit=400) for _ in range(4)]
        with pytest.raises(OverloadedError) as caught:
            scheduler.submit(sequences)
        assert caught.value.retryable
    finally:
        scheduler.close()
    assert engine.closed


def test_a_loop_that_is_gone_stops_its_requests():
    model = LocalDcModel(loaded_fake(small_tokenizer()))

    async def start_and_leave():
        stream = model.generate(ids(3, 4, max_tokens=500))
        await anext(stream)
        return stream

    stream = asyncio.run(start_and_leave())

    async def use_and_close():
        completion = await run_one(model, ids(5, 6))
        await model.aclose()
        return completion

    assert asyncio.run(use_and_close()).token_ids
    del stream


async def test_what_is_forced_to_the_end_needs_no_forward(opened):
    from dcmodel.constraints import Regex

    model, engine = opened()
    item = request(model, "yes", constraint=Regex("The quick brown fox"), logprobs=False)
    completion = await run_one(model, item)
    assert completion.text == "The quick brown fox"
    assert completion.certificate.valid
    assert all(completion.forced)
    assert not engine.batches
