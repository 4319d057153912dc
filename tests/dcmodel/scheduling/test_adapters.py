"""Adapters under the scheduler, on an engine whose adapters are closed forms."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
from conformance.requests import assert_same, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.errors import (
    AdapterLoadError,
    AdapterNotFoundError,
    CapabilityError,
    InvalidRequestError,
    ModelClosedError,
)
from dcmodel.local import LocalDcModel
from dcmodel.mask import TokenMask
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest

PROMPT = tuple(range(3, 60))


@pytest.fixture
async def opened():
    """Makes (model, engine) pairs with adapters "a" and "b" and closes them."""
    models = []

    async def make(**options):
        loaded = loaded_fake(small_tokenizer(), **options)
        model = LocalDcModel(loaded)
        models.append(model)
        await model.mount_adapter("a", "seed:7")
        await model.mount_adapter("b", "seed:8")
        return model, loaded.engine

    yield make
    for model in models:
        await model.aclose()


def ids(*token_ids: int, **options) -> GenerateRequest:
    options.setdefault("max_tokens", 8)
    return GenerateRequest(prompt_ids=token_ids, ignore_eos=True, **options)


async def settled(model) -> None:
    """What nobody holds any more is forgotten when this is done."""
    for _ in range(2):  # what the loop itself still holds goes in the first round
        gc.collect()
        await run_one(model, ids(5, max_tokens=1))


@asynccontextmanager
async def held(model, engine):
    """The scheduler stands still between two steps: what is asked meanwhile begins together."""
    mount, is_held, go_on = engine.mount_adapter, threading.Event(), threading.Event()

    def slow(adapter, loaded):
        mount(adapter, loaded)
        is_held.set()
        assert go_on.wait(60)

    engine.mount_adapter = slow
    mounting = asyncio.create_task(model.mount_adapter("held", "seed:1"))
    assert await asyncio.to_thread(is_held.wait, 60)
    try:
        yield mounting
    finally:
        go_on.set()
        del engine.mount_adapter
        await asyncio.wait([mounting])


def expected_tokens(engine, prompt, adapter, count) -> tuple[int, ...]:
    """The greedy continuation, from the closed forms."""
    context = list(prompt)
    for _ in range(count):
        row = engine.model.logits(context)
        if adapter is not None:
            row = row + engine.adapters[adapter].logits(context)
        context.append(int(row.argmax()))
    return tuple(context[len(prompt) :])


async def test_a_request_computes_with_the_adapter_that_it_names(opened):
    model, engine = await opened()
    for name, handle in ((None, None), ("a", 1), ("b", 2)):
        completion = await run_one(model, ids(*PROMPT, adapter=name))
        assert completion.token_ids == expected_tokens(engine, PROMPT, handle, 8)


async def test_a_mixed_batch_gives_what_each_request_gives_alone(opened):
    model, engine = await opened()
    requests = [
        ids(3, 4 + i, max_tokens=12, adapter=name, sampling=SamplingParams(temperature=1.0, seed=i))
        for i, name in enumerate([None, "a", "b", "a", None, "b"])
    ]
    alone = [await run_one(model, item) for item in requests]
    engine.batches.clear()
    async with held(model, engine):
        streams = [model.generate(item) for item in requests]
    together = [await stream.completion() for stream in streams]
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other, 1e-5)
    assert any({span.adapter for span in batch.spans} >= {0, 1, 2} for batch in engine.batches)


async def test_what_one_adapter_computed_is_of_no_use_to_another(opened):
    model, _engine = await opened()
    first = [await run_one(model, ids(*PROMPT, adapter=name)) for name in (None, "a", "b")]
    assert [item.usage.cached_tokens for item in first] == [0, 0, 0]
    again = [await run_one(model, ids(*PROMPT, adapter=name)) for name in (None, "a", "b")]
    assert [item.usage.cached_tokens for item in again] == [len(PROMPT) - 1] * 3
    for one, other in zip(first, again, strict=True):
        assert_same(one, other, 1e-5)


async def test_requests_that_wait_for_a_prefix_wait_for_one_of_their_own_adapter(opened):
    model, _engine = await opened(max_batch_tokens=32)
    shared = tuple(range(3, 203))
    completions = await run(
        model, [ids(*shared, 300 + i, max_tokens=2, adapter=name) for i in range(3) for name in ("a", "b")]
    )
    assert sorted(item.usage.cached_tokens for item in completions) == [0, 0, 200, 200, 200, 200]


@pytest.mark.parametrize("max_branch_tokens", [0, 64])
async def test_scores_are_those_of_the_adapter(opened, max_branch_tokens):
    model, engine = await opened(max_branch_tokens=max_branch_tokens)
    continuations = ((5, 6, 7), (5, 9), (8,))
    for name, handle in (("a", 1), (None, None), ("b", 2)):
        result = await model.score(
            ScoreRequest(prompt_ids=PROMPT, continuations=continuations, prompt_logprobs=0, adapter=name)
        )
        for scored in result.continuations:
            context, total = list(PROMPT), 0.0
            for token_id in scored.token_ids:
                row = engine.model.logits(context).astype(float)
                if handle is not None:
                    row = row + engine.adapters[handle].logits(context)
                total += row[token_id] - np.logaddexp.reduce(row)
                context.append(token_id)
            assert sum(scored.logprobs) == pytest.approx(total, abs=1e-4)


async def test_next_tokens_are_those_of_the_adapter(opened):
    model, engine = await opened()
    for name, handle in (("a", 1), (None, None)):
        (found,) = await model.next_tokens([PROMPT], k=1, adapter=name)
        assert found.token_ids.tolist() == list(expected_tokens(engine, PROMPT, handle, 1))


async def test_a_session_and_its_forks_compute_with_their_adapter(opened):
    model, engine = await opened()
    session = await model.session(ids(*PROMPT, adapter="a"))
    await session.step()
    fork = session.fork()
    for _ in range(3):
        await asyncio.gather(session.step(), fork.step())
    assert session.token_ids == fork.token_ids == expected_tokens(engine, PROMPT, 1, 4)
    allowed = TokenMask.from_ids([9, 10], model.tokenizer.vocab_size)
    masked = await session.logprobs(allowed)
    assert masked.log_mass < 0


async def test_what_was_preempted_goes_on_with_its_adapter(opened):
    model, engine = await opened(max_sequences=4, kv_tokens=300, max_positions=200)
    requests = [ids(3, 4 + i, max_tokens=100, adapter=name) for i, name in enumerate(["a", "b", None, "a"])]
    for item, completion in zip(requests, await run(model, requests), strict=True):
        handle = {"a": 1, "b": 2, None: None}[item.adapter]
        assert completion.token_ids == expected_tokens(engine, item.prompt_ids, handle, 100)


# -- mounting ---------------------------------------------------------------------------------------


async def test_what_is_mounted_is_listed_in_order(opened):
    model, _ = await opened()
    info = await model.mount_adapter("c/d", "seed:3")
    assert (info.name, info.source, info.rank, info.kind) == ("c/d", "seed:3", 1, "lora")
    assert [item.name for item in model.adapters] == ["a", "b", "c/d"]
    await model.unmount_adapter("b")
    assert [item.name for item in model.adapters] == ["a", "c/d"]


async def test_an_unknown_adapter_is_refused_before_anything_is_computed(opened):
    model, engine = await opened()
    item = ids(*PROMPT, adapter="nobody")
    with pytest.raises(AdapterNotFoundError, match=r"'nobody' is mounted.*a, b"):
        model.generate(item)
    with pytest.raises(AdapterNotFoundError):
        await model.session(item)
    with pytest.raises(AdapterNotFoundError):
        await model.score(ScoreRequest(prompt_ids=PROMPT, continuations=((5,),), adapter="nobody"))
    with pytest.raises(AdapterNotFoundError):
        await model.next_tokens([PROMPT], adapter="nobody")
    with pytest.raises(AdapterNotFoundError):
        await model.unmount_adapter("nobody")
    assert not engine.batches


@pytest.mark.parametrize("name", ["", " a", "-", "../x y", "é", "a" * 201])
async def test_a_name_that_no_route_could_carry_is_refused(opened, name):
    model, engine = await opened()
    with pytest.raises(InvalidRequestError, match="cannot be an adapter's name"):
        await model.mount_adapter(name, "seed:3")
    assert engine.handles == [1, 2]


async def test_a_broken_source_leaves_everything_as_it_was(opened):
    model, _engine = await opened()
    with pytest.raises(AdapterLoadError, match="no adapter"):
        await model.mount_adapter("c", "broken")
    assert [item.name for item in model.adapters] == ["a", "b"]
    await model.mount_adapter("c", "seed:3")
    assert len((await run_one(model, ids(*PROMPT, adapter="c"))).token_ids) == 8


async def test_a_name_that_is_taken_or_being_taken_is_refused(opened):
    model, _engine = await opened()
    with pytest.raises(InvalidRequestError, match="'a' is mounted already"):
        await model.mount_adapter("a", "seed:3")
    results = await asyncio.gather(
        *(model.mount_adapter("c", f"seed:{i}") for i in range(3)), return_exceptions=True
    )
    assert sorted(type(item).__name__ for item in results) == [
        "AdapterInfo",
        "InvalidRequestError",
        "InvalidRequestError",
    ]


async def test_an_engine_that_cannot_mount_says_so(opened, monkeypatch):
    model, engine = await opened()

    def no_memory(adapter, loaded):
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "mount_adapter", no_memory)
        with pytest.raises(AdapterLoadError, match="no room"):
            await model.mount_adapter("c", "seed:3")
    assert len((await run_one(model, ids(*PROMPT, adapter="a"))).token_ids) == 8
    await model.mount_adapter("c", "seed:3")


async def test_a_running_batch_goes_on_while_an_adapter_is_read(opened, monkeypatch):
    model, engine = await opened()
    read, may_read, reads = engine.read_adapter, threading.Event(), threading.Event()

    def slow(source):
        reads.set()
        assert may_read.wait(60)
        return read(source)

    monkeypatch.setattr(engine, "read_adapter", slow)
    mounting = asyncio.create_task(model.mount_adapter("c", "seed:3"))
    assert await asyncio.to_thread(reads.wait, 60)
    completion = await run_one(model, ids(*PROMPT, adapter="a", max_tokens=50))
    assert len(completion.token_ids) == 50
    assert not mounting.done()
    with pytest.raises(AdapterNotFoundError):
        model.generate(ids(*PROMPT, adapter="c"))
    may_read.set()
    await mounting
    assert (await run_one(model, ids(*PROMPT, adapter="c"))).token_ids == expected_tokens(
        engine, PROMPT, 3, 8
    )


async def test_a_mount_that_was_given_up_leaves_nothing_behind(opened):
    model, engine = await opened()
    async with held(model, engine) as mounting:
        mounting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mounting
    del mounting
    assert 3 in engine.handles
    await settled(model)
    assert sorted(engine.adapters) == [1, 2]
    assert [item.name for item in model.adapters] == ["a", "b"]


# -- unmounting -------------------------------------------------------------------------------------


async def test_unmounting_frees_the_adapter_and_the_prefixes_that_it_left(opened):
    model, engine = await opened()
    await run_one(model, ids(*PROMPT, adapter="a"))
    await run_one(model, ids(*PROMPT, adapter="b"))
    assert len(engine.sequences) == 2
    await model.unmount_adapter("a")
    assert sorted(engine.adapters) == [2]
    assert len(engine.sequences) == 1
    again = await run_one(model, ids(*PROMPT, adapter="b"))
    assert again.usage.cached_tokens == len(PROMPT) - 1
    with pytest.raises(AdapterNotFoundError):
        model.generate(ids(*PROMPT, adapter="a"))


async def test_a_name_that_is_mounted_anew_shares_nothing_with_what_it_was(opened):
    model, engine = await opened()
    before = await run_one(model, ids(*PROMPT, adapter="a"))
    await model.unmount_adapter("a")
    await model.mount_adapter("a", "seed:9")
    after = await run_one(model, ids(*PROMPT, adapter="a"))
    assert after.usage.cached_tokens == 0
    assert after.token_ids == expected_tokens(engine, PROMPT, 3, 8) != before.token_ids
    assert engine.handles == [1, 2, 3]


async def test_what_runs_with_an_adapter_ends_as_it_would_have(opened):
    model, engine = await opened()
    expected = expected_tokens(engine, PROMPT, 1, 40)
    async with held(model, engine):
        stream = model.generate(ids(*PROMPT, adapter="a", max_tokens=40))
        unmounting = asyncio.create_task(model.unmount_adapter("a"))
        await asyncio.sleep(0)
        with pytest.raises(AdapterNotFoundError):
            model.generate(ids(*PROMPT, adapter="a"))
    await unmounting
    assert (await stream.completion()).token_ids == expected
    await settled(model)
    assert sorted(engine.adapters) == [2, 3]
    assert len([by for by in engine.computed_by.values() if 1 in by]) == 0


async def test_the_old_and_the_new_mounting_of_a_name_run_side_by_side(opened):
    model, engine = await opened()
    session = await model.session(ids(*PROMPT, adapter="a"))
    await session.step()
    await model.unmount_adapter("a")
    await model.mount_adapter("a", "seed:9")
    newer = model.generate(ids(*PROMPT, adapter="a", max_tokens=4))
    for _ in range(3):
        await session.step()
    assert session.token_ids == expected_tokens(engine, PROMPT, 1, 4)
    assert (await newer.completion()).token_ids == expected_tokens(engine, PROMPT, 3, 4)


async def test_an_open_session_keeps_its_adapter_and_so_do_its_forks(opened):
    model, engine = await opened()
    expected = expected_tokens(engine, PROMPT, 1, 3)
    session = await model.session(ids(*PROMPT, adapter="a"))
    await session.step()
    await model.unmount_adapter("a")
    fork = session.fork()
    del session
    await settled(model)
    assert sorted(engine.adapters) == [1, 2]
    for _ in range(2):
        await fork.step()
    assert fork.token_ids == expected
    del fork
    await settled(model)
    assert sorted(engine.adapters) == [2]


async def test_a_finished_stream_keeps_no_adapter(opened):
    model, engine = await opened()
    stream = model.generate(ids(*PROMPT, adapter="a"))
    await stream.completion()
    await model.unmount_adapter("a")
    await settled(model)
    assert sorted(engine.adapters) == [2]
    assert len((await stream.completion()).token_ids) == 8


async def test_a_cancelled_request_gives_its_adapter_back(opened):
    model, engine = await opened()
    stream = model.generate(ids(*PROMPT, adapter="a", max_tokens=400))
    await anext(stream)
    stream.cancel()
    await stream.completion()
    await model.unmount_adapter("a")
    await settled(model)
    assert sorted(engine.adapters) == [2]


async def test_an_engine_that_fails_to_unmount_stops_nobody(opened, monkeypatch, caplog):
    model, engine = await opened()

    def broken(adapter):
        raise RuntimeError("stuck")

    monkeypatch.setattr(engine, "unmount_adapter", broken)
    await model.unmount_adapter("a")
    assert len((await run_one(model, ids(*PROMPT, adapter="b"))).token_ids) == 8
    assert "could not unmount" in caplog.text


async def test_a_closed_model_mounts_nothing():
    loaded = loaded_fake(small_tokenizer())
    model = LocalDcModel(loaded)
    await model.mount_adapter("a", "seed:7")
    await model.aclose()
    with pytest.raises(ModelClosedError):
        await model.mount_adapter("b", "seed:8")
    with pytest.raises(ModelClosedError):
        await model.unmount_adapter("a")


async def test_an_engine_without_adapters_says_so(opened, monkeypatch):
    from dcmodel.engine import Engine

    model, engine = await opened()
    monkeypatch.setattr(type(engine), "read_adapter", lambda self, source: Engine.read_adapter(self, source))
    with pytest.raises(CapabilityError, match="FakeEngine has no adapters"):
        await model.mount_adapter("c", "seed:3")
