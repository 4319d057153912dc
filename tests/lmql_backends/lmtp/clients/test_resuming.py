"""Connections are cut at random places; what comes is what would have come."""

from __future__ import annotations

import asyncio
import random
from itertools import repeat

import pytest
from conformance.requests import PROMPTS, assert_same, mixed_requests, prompt_ids, request, run
from fakes.cutting_proxy import CuttingProxy

from dcmodel.constraints import Choice, MaskFunction, Regex
from dcmodel.errors import ConnectionLostError, ModelNotFoundError, RetryableError, UnauthorizedError
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.retry import RetryPolicy
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings


def budgets(seed: int, low: int, high: int):
    """The first connection lives long enough to learn what the model is."""
    rng = random.Random(seed)
    yield 30_000
    while True:
        yield rng.randint(low, high)


@pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=lambda codec: codec.name)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 5}, {"temperature": 1.0}], ids=str)
async def test_streams_go_on_where_they_were(local, server, connect, codec, options):
    requests = mixed_requests(local, 12, ignore_eos=True, **options)
    requests = [request(local, PROMPTS[0], max_tokens=200, ignore_eos=True, **options), *requests]
    async with CuttingProxy(server.port, budgets(1, 1500, 6000)) as proxy:
        model = await connect(proxy.port, codec=codec)
        proxy.cut_all()

        async def read(item):
            stream = model.generate(item)
            steps = [step async for step in stream]
            return steps, await stream.completion()

        found = await asyncio.gather(*map(read, requests))
        assert proxy.cuts > 3
    for (steps, completion), item in zip(found, requests, strict=True):
        assert tuple(step.token_id for step in steps) == completion.token_ids
        assert len(completion.token_ids) == item.max_tokens
        assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)
        assert steps[-1].finish_reason is completion.finish_reason
        if options != {"temperature": 1.0}:  # else the seed is the client's
            (expected,) = await run(local, [item])
            assert_same(completion, expected, 1e-5)


async def test_sessions_and_requests_of_this_side_go_on(local, server, connect):
    constraint = Regex("[a-z]{3,9} (yes|no)( and (yes|no|maybe)){1,4}")
    item = request(local, PROMPTS[0], constraint=constraint, temperature=1.0, seed=4, max_tokens=60)
    function = MaskFunction(lambda ids: range(40, 90))
    driven = request(local, PROMPTS[1], constraint=function, temperature=1.0, seed=4, max_tokens=40)
    expected = await run(local, [item, driven])
    async with CuttingProxy(server.port, budgets(2, 700, 2500)) as proxy:
        model = await connect(proxy.port)
        proxy.cut_all()
        session = await model.session(item)
        running = model.generate(driven)
        while not session.is_finished:
            await session.step()
        assert_same(session.completion(), expected[0], 1e-5)
        assert_same(await running.completion(), expected[1], 1e-5)
        assert proxy.cuts > 3


async def test_questions_are_asked_again(local, server, connect):
    item = ScoreRequest(
        prompt_ids=prompt_ids(local, PROMPTS[0]), continuations=tuple((5, n) for n in range(5, 60))
    )
    async with CuttingProxy(server.port) as proxy:
        model = await connect(proxy.port)
        for _ in range(5):
            proxy.cut_all()
            found = await model.score(item)
            assert [len(scored.logprobs) for scored in found.continuations] == [2] * 55
        assert proxy.connections == 6


async def test_what_cannot_be_taken_up_fails_in_time(local, server, connect):
    policy = RetryPolicy(seconds=0.3, base=0.01, cap=0.05)
    async with CuttingProxy(server.port) as proxy:
        model = await connect(proxy.port, retry=policy)
        proxy.refuses = True
        proxy.cut_all()
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionLostError):
                await model.generate(request(model, "yes")).completion()
            session = await model.session(request(model, "yes"))
            with pytest.raises(ConnectionLostError):
                await session.step()
            with pytest.raises(ConnectionLostError):
                await model.next_tokens([(5, 6)])
        proxy.refuses = False  # it is there again
        expected = await run(local, [request(model, "yes")])
        assert_same((await run(model, [request(model, "yes")]))[0], expected[0], 1e-5)
        assert (await session.step()).token_id == expected[0].token_ids[0]


async def test_a_request_that_ends_every_connection_is_given_up(server, connect):
    async with CuttingProxy(server.port, iter([30_000, *repeat(500, 100)])) as proxy:
        model = await connect(proxy.port, retry=RetryPolicy(seconds=30, base=0.001, cap=0.01, max_losses=3))
        proxy.cut_all()
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionLostError):
                await model.score(ScoreRequest(prompt_ids=(5,), continuations=((6,),) * 200))
        assert proxy.connections <= 6


async def test_nothing_is_tried_again_that_can_never_work(local, connect):
    settings = ServerSettings(token="a-secret-token")
    async with LMTPServer({"fake": local}, settings=settings) as server:
        with pytest.raises(UnauthorizedError, match="token"):
            await connect(server.port)
        with pytest.raises(UnauthorizedError):
            await connect(server.port, token="another-token")
        with pytest.raises(ModelNotFoundError):
            await connect(server.port, token="a-secret-token", name="other")
        model = await connect(server.port, token="a-secret-token", name="fake")
        completions = await run(model, [request(model, "yes", constraint=Choice(["yes", "no"]))])
        assert completions[0].parsed in ("yes", "no")
    with pytest.raises(ConnectionLostError):
        await connect(server.port)


async def test_a_server_that_drains_finishes_what_runs_and_the_next_one_gets_the_rest(local, server, connect):
    async with CuttingProxy(server.port) as proxy:
        model = await connect(proxy.port)
        long = request(model, PROMPTS[0], max_tokens=300, ignore_eos=True)
        running = model.generate(long)
        await anext(running)
        draining = asyncio.ensure_future(server.drain(20))
        assert (await running.completion()).token_ids == (await run(local, [long]))[0].token_ids
        assert await draining
        late = asyncio.ensure_future(run(model, [request(model, "yes")]))
        async with LMTPServer({"fake": local}) as successor:
            proxy.target = successor.port
            (found,) = await asyncio.wait_for(late, 20)
            assert found.token_ids == (await run(local, [request(model, "yes")]))[0].token_ids


async def test_a_server_that_stays_away_is_an_overload_in_time(local, server, connect):
    model = await connect(server.port, retry=RetryPolicy(seconds=0.3, base=0.01, cap=0.05))
    assert await server.drain(5)
    async with asyncio.timeout(20):
        with pytest.raises(RetryableError):
            await model.generate(request(model, "yes")).completion()
