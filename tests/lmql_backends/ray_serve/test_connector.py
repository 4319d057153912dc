"""Both ends of a connection through calls that overtake one another, without Ray."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest
from conformance.requests import assert_same, mixed_requests, prompt_ids, request, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.errors import ConnectionLostError, OverloadedError
from dcmodel.local import LocalDcModel
from dcmodel.mask import TokenMask
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.balancer.connecting import connect_by, probe
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.ray_serve.connector import ReplicaConnector
from lmql_backends.ray_serve.engine import EngineDesk
from lmql_backends.ray_serve.replicas import Replicas

REVISION = "fake"


class Calls:
    """Calls of desks in this process. Each takes a few turns of the loop, so that later ones come first."""

    def __init__(self, desks: dict[str, EngineDesk]) -> None:
        self.desks = desks
        self.running = 0
        """Calls of `send`."""
        self.idle = asyncio.Event()
        self._rng = random.Random(5)
        self._readers: dict[str, set[asyncio.Task]] = {}

    async def converse(self, replica, channel, revision):
        desk = self._desk(replica)
        async with aclosing(desk.converse(replica, channel, revision)) as items:
            while True:
                step = asyncio.ensure_future(anext(items, None))
                self._readers.setdefault(replica, set()).add(step)
                try:
                    item = await step
                except asyncio.CancelledError:
                    if replica in self.desks:
                        raise
                    raise ConnectionLostError(f"{replica} died.") from None
                finally:
                    self._readers[replica].discard(step)
                if item is None:
                    return
                yield item

    async def send(self, replica, channel, index, frame):
        for _ in range(self._rng.randrange(6)):
            await asyncio.sleep(0)
        self.running += 1
        self.idle.clear()
        try:
            return await self._desk(replica).send(replica, channel, index, frame)
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def kill(self, replica: str) -> None:
        del self.desks[replica]
        for step in self._readers.pop(replica, ()):
            step.cancel()

    def _desk(self, replica: str) -> EngineDesk:
        if replica not in self.desks:
            raise ConnectionLostError(f"there is no replica {replica}.")
        return self.desks[replica]


@pytest.fixture
async def alone():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


@asynccontextmanager
async def balanced(count: int):
    """A balancer over so many replicas, as the ingress has it, and what it calls."""
    models = [LocalDcModel(loaded_fake(small_tokenizer())) for _ in range(count)]
    names = [f"r{number}" for number in range(count)]
    calls = Calls(
        {
            name: EngineDesk(StaticModels(model), name, REVISION)
            for name, model in zip(names, models, strict=True)
        }
    )
    pool = Pool(connect_by(lambda name: ReplicaConnector(calls, name, REVISION)), probe)
    replicas = Replicas(pool)
    replicas.subscription.tell(set(names))
    try:
        model = BalancedDcModel(pool, await pool.first())
        await pool.wait(lambda: sum(worker.model is not None for worker in pool.workers) == count)
        yield model, calls, replicas
    finally:
        await replicas.aclose()
        await pool.aclose()
        for model in models:
            await model.aclose()


async def test_requests_give_what_they_give_here(alone):
    items = [
        *mixed_requests(alone, 12),
        *mixed_requests(alone, 12, seed=3, temperature=1.0),
        request(alone, "1 2 3", constraint=Regex("[0-9]{3,7}"), seed=4),
        request(alone, "yes", stop=("a",), max_tokens=40, logprobs=True, top_logprobs=3),
    ]
    async with balanced(2) as (model, _, _):
        for ours, theirs in zip(await run(model, items), await run(alone, items), strict=True):
            assert_same(ours, theirs, 1e-6)


async def test_scores_and_distributions_give_what_they_give_here(alone):
    prompt = prompt_ids(alone, "The quick brown fox")
    scores = ScoreRequest(prompt_ids=prompt, continuations=((5, 6, 7), (5, 6), (9,)))
    async with balanced(1) as (model, _, _):
        assert await model.score(scores) == await alone.score(scores)
        (ours,), (theirs,) = await model.next_tokens([prompt], k=4), await alone.next_tokens([prompt], k=4)
        np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)


async def test_sessions_fork_and_step_under_masks_as_here(alone):
    async def play(model):
        session = await model.session(request(model, "yes", seed=2))
        mask = TokenMask.from_ids(range(20, 40), model.info.vocab_size)
        await session.step(mask)
        fork = session.fork()
        await fork.step(mask)
        await session.step()
        session.rollback(1)
        await session.step(mask)
        found = [*session.token_ids], [*fork.token_ids]
        return found

    async with balanced(2) as (model, _, _):
        assert await play(model) == await play(alone)


async def test_streams_go_on_behind_their_tokens_when_their_replica_is_lost(alone):
    items = [
        request(alone, f"city {number}", max_tokens=60, ignore_eos=True, seed=number) for number in range(8)
    ]
    expected = await run(alone, items)
    async with balanced(2) as (model, calls, _):
        streams = [model.generate(item) for item in items]
        for stream in streams:
            await anext(stream)
        calls.kill("r0")
        for stream, whole in zip(streams, expected, strict=True):
            assert_same(await stream.completion(), whole, 1e-6)


async def test_a_call_lasts_as_long_as_what_it_began(alone):
    async with balanced(1) as (model, calls, _):
        stream = model.generate(request(alone, "city", max_tokens=200, ignore_eos=True))
        await anext(stream)
        assert calls.running == 1
        await stream.completion()
        await calls.idle.wait()


async def test_a_cancelled_stream_ends_where_it_runs(alone):
    async with balanced(1) as (model, calls, _):
        stream = model.generate(request(alone, "city", max_tokens=400, ignore_eos=True))
        await anext(stream)
        stream.cancel()
        completion = await stream.completion()
        assert len(completion.token_ids) < 400
        await calls.idle.wait()


async def test_a_replica_that_leaves_ends_what_runs_there_and_gets_nothing_new(alone):
    async with balanced(2) as (model, calls, replicas):
        item = request(alone, "city", max_tokens=100, ignore_eos=True)
        stream = model.generate(item)
        await anext(stream)
        (busy,) = [worker.address for worker in model.pool.workers if worker.flights]
        (other,) = calls.desks.keys() - {busy}
        replicas.subscription.tell({other})
        await model.pool.wait(lambda: len(model.pool.workers) == 1 or bool(replicas.subscription.held))
        await run(model, mixed_requests(alone, 6))
        assert_same(await stream.completion(), await run_one(alone, item), 1e-6)
        await model.pool.wait(lambda: [worker.address for worker in model.pool.workers] == [other])


async def test_a_replica_that_is_replaced_takes_requests_until_another_one_is_there(alone):
    async with balanced(2) as (model, _, replicas):
        replicas.subscription.tell({"r0"})
        await model.pool.wait(lambda: [worker.address for worker in model.pool.workers] == ["r0"])
        item = request(alone, "city", max_tokens=20)
        whole = await run_one(alone, item)
        for _ in range(2):
            for name in ("r1", "r0"):
                replicas.subscription.tell({name})
                await asyncio.sleep(0)
                assert_same(await run_one(model, item), whole, 1e-6)
                await model.pool.wait(lambda name=name: [w.address for w in model.pool.workers] == [name])


async def test_the_last_replica_goes_when_there_is_no_other(alone):
    async with balanced(1) as (model, _, replicas):
        replicas.subscription.tell(set())
        await model.pool.wait(lambda: not model.pool.workers)
        with pytest.raises(OverloadedError, match="no worker is available"):
            await run_one(model, request(alone, "city"))
        assert not replicas.subscription.held


async def test_adapters_are_mounted_on_all_replicas_and_those_that_come(alone):
    info = await alone.mount_adapter("law", "seed:5")
    item = request(alone, "city", adapter="law", max_tokens=20, seed=1)
    whole = await run_one(alone, item)
    async with balanced(2) as (model, _, replicas):
        replicas.subscription.tell({"r0"})
        await model.pool.wait(lambda: len(model.pool.workers) == 1)
        assert await model.mount_adapter("law", "seed:5") == info
        replicas.subscription.tell({"r1"})
        await model.pool.wait(lambda: [worker.address for worker in model.pool.workers] == ["r1"])
        assert_same(await run_one(model, item), whole, 1e-6)


async def test_a_replica_of_another_revision_or_name_is_not_joined():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as served:
        calls = Calls({"r0": EngineDesk(StaticModels(served), "r0", "another")})
        with pytest.raises(ConnectionLostError, match="it serves 'another', not 'fake'"):
            await ReplicaConnector(calls, "r0", REVISION).connect(Deaf())
        calls.desks["r1"] = calls.desks["r0"]
        with pytest.raises(ConnectionLostError, match="replica r0 was asked instead"):
            await ReplicaConnector(calls, "r1", "another").connect(Deaf())


async def test_a_channel_that_is_not_there_is_said_to_be_gone():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as served:
        desk = EngineDesk(StaticModels(served), "r0", REVISION)
        assert not await desk.send("r0", "nobody's", 0, b"\x90")


class Deaf:
    def on_messages(self, messages):
        raise AssertionError(messages)

    def on_lost(self, error):
        raise AssertionError(error)
