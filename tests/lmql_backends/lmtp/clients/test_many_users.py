"""Many loops, threads and readers share one client; who goes away, or does not read, costs nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conformance.requests import PROMPTS, mixed_requests, request, run, run_one
from fakes.fake_engine import FakeEngine, loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.errors import ModelClosedError
from dcmodel.local import LocalDcModel
from lmql_backends.lmtp import stream as streams
from lmql_backends.lmtp.protocol.messages import Describe, Described
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings


async def test_many_threads_with_loops_of_their_own(local, server, connect):
    model = await connect(server.port)
    requests = mixed_requests(local, 16, temperature=1.0, seed=2)
    expected = [completion.token_ids for completion in await run(local, requests)]

    def in_a_loop(_):
        return [completion.token_ids for completion in asyncio.run(run(model, requests))]

    with ThreadPoolExecutor(8) as pool:
        found = await asyncio.to_thread(lambda: list(pool.map(in_a_loop, range(16))))
    assert found == [expected] * 16


async def test_the_synchronous_face(local, server, connect):
    expected = await LLM.from_model(local).agenerate("yes", max_tokens=8)
    llm = LLM.from_model(await connect(server.port))
    found = await asyncio.to_thread(llm.generate, ["yes"] * 4, max_tokens=8)
    assert [item.text for item in found] == [expected.text] * 4
    assert llm.info == local.info


class HeldEngine(FakeEngine):
    """Stops at the `after`-th forward until it is let go."""

    def hold(self, after: int) -> None:
        self.after = after
        self.reached = threading.Event()
        self.released = threading.Event()

    def forward(self, batch):
        if len(self.batches) == self.after:
            self.reached.set()
            assert self.released.wait(60)
        return super().forward(batch)


@pytest.mark.parametrize("how", ["cancelled", "dropped", "closed"])
async def test_who_goes_away_frees_its_place(connect, how):
    loaded = loaded_fake(small_tokenizer(), max_sequences=1)
    loaded.engine.__class__ = HeldEngine
    loaded.engine.hold(5)
    async with LocalDcModel(loaded) as local, LMTPServer({"fake": local}) as server:
        model, other = await connect(server.port), await connect(server.port)
        victim = model.generate(request(model, PROMPTS[0], max_tokens=400, ignore_eos=True))
        await anext(victim)
        waiting = other.generate(request(other, PROMPTS[1], max_tokens=3))
        assert await asyncio.to_thread(loaded.engine.reached.wait, 60)
        if how == "cancelled":
            victim.cancel()
        elif how == "closed":
            await model.aclose()
        del victim
        gc.collect()
        # What was sent later on the same connection has been answered: the server has heard of it.
        if how != "closed":
            await model._client.ask(lambda id_: Describe(id=id_), Described)
        loaded.engine.released.set()
        assert len((await waiting.completion()).token_ids) <= 3
        assert len(loaded.engine.batches) < 100


async def test_a_cancelled_stream_has_the_tokens_so_far(local, server, connect):
    model = await connect(server.port)
    item = request(model, PROMPTS[0], max_tokens=400, ignore_eos=True)
    stream = model.generate(item)
    first = [await anext(stream) for _ in range(3)]
    stream.cancel()
    completion = await stream.completion()
    assert completion.finish_reason == "cancelled"
    count = len(completion.token_ids)
    assert count >= 3
    assert completion.token_ids == (await run_one(local, item)).token_ids[:count]
    assert [step.token_id for step in first] == list(completion.token_ids[:3])
    early = model.generate(item)
    early.cancel()
    assert (await early.completion()).finish_reason == "cancelled"


async def test_a_stream_that_nobody_reads_stops_at_its_window(monkeypatch, local, server, connect):
    monkeypatch.setattr(streams, "WINDOW", 32)
    model = await connect(server.port)
    item = request(model, PROMPTS[0], max_tokens=300, ignore_eos=True)
    expected = await run_one(local, item)
    stream = model.generate(item)
    await anext(stream)
    await run_one(model, request(model, PROMPTS[1], max_tokens=30))
    assert sum(len(f[0].columns.token_ids) for f in stream._conversation.frames) <= 32
    rest = [step.token_id async for step in stream]
    assert (expected.token_ids[0], *rest) == expected.token_ids
    assert (await run_one(model, item)).token_ids == expected.token_ids  # without reading


async def test_more_streams_than_a_connection_takes_wait(local, connect):
    settings = ServerSettings(limits=ConnectionLimits(max_streams=4))
    async with LMTPServer({"fake": local}, settings=settings) as server:
        model = await connect(server.port)
        requests = mixed_requests(local, 40)
        expected = await run(local, requests)
        found = await run(model, requests)
        assert [item.token_ids for item in found] == [item.token_ids for item in expected]
        sessions = [await model.session(item) for item in requests[:12]]
        steps = await asyncio.gather(*(session.step() for session in sessions))
        assert [step.token_id for step in steps] == [item.token_ids[0] for item in expected[:12]]


async def test_a_closed_model_says_so(server, connect):
    model = await connect(server.port)
    stream = model.generate(request(model, PROMPTS[0], max_tokens=400, ignore_eos=True))
    await anext(stream)
    await model.aclose()
    with pytest.raises(ModelClosedError):
        await stream.completion()
    with pytest.raises(ModelClosedError):
        await model.next_tokens([(5, 6)])
