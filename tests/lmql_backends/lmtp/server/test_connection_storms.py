"""Many clients that come, cancel, stall and vanish: what they got was right, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest
from fakes.lmtp_peer import Peer, fake_models, generate

from dcmodel.constraints import Regex
from dcmodel.local.stream import LocalStream
from dcmodel.scheduling.sequence import Sequence
from dcmodel.types import SamplingParams
from lmql_backends.lmtp.protocol.messages import (
    Append,
    Cancel,
    Credit,
    Done,
    Failed,
    Fork,
    Open,
    Request,
    Rollback,
    Step,
    Stepped,
    Tokens,
)
from lmql_backends.lmtp.server.streams import TokenStream

RULE = dict(Regex("[a-z ]{3,30}[.]").to_dict())
NEVER = {300: -1000.0}
"""The poison is in prompts alone."""
KEPT = {TokenStream, LocalStream, Sequence, asyncio.Task}


def shape(kind, id_):
    """A stream of one of a few kinds, under any number."""
    sampling = SamplingParams(temperature=1.0, seed=kind, logit_bias=NEVER)
    rule = RULE if kind % 3 == 0 else None
    return generate(id_, [50 + kind, 60], max_tokens=10 + 3 * kind, sampling=sampling, constraint=rule)


@pytest.fixture
async def models():
    models = fake_models(max_sequences=24, kv_tokens=24 * 120, nan_token=300)
    yield models
    await models.fake.aclose()


@pytest.fixture
async def expected(models):
    peer = Peer(models)
    peer.say(*(shape(kind, kind) for kind in range(12)))
    await asyncio.gather(*(peer.done(kind) for kind in range(12)))
    found = {kind: peer.token_ids(kind) for kind in range(12)}
    await peer.aclose()
    return found


async def storm(peer, rng, kinds, count):
    """`count` streams, poison among them; some are cancelled, some get their credit late."""
    for id_ in range(100, 100 + count):
        kinds[id_] = kind = rng.randrange(12)
        if rng.random() < 0.05:
            kinds[id_] = None
            peer.say(generate(id_, [300, 60], max_tokens=9))
            continue
        message = shape(kind, id_)
        message.credit = rng.choice([None, None, 0, 3])
        peer.say(message, *[Cancel(id=id_)] * (rng.random() < 0.1))
        other = rng.randrange(100, id_ + 1)
        if rng.random() < 0.2:
            peer.say(Cancel(id=other))
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        peer.say(Credit(id=other, tokens=rng.randrange(5)))
    peer.say(*(Credit(id=id_, tokens=10_000) for id_ in kinds))


def check(peer, kinds, expected):
    """One end each, nothing behind it, and tokens that are the beginning of the right ones."""
    for id_, kind in kinds.items():
        messages = peer.of(id_)
        assert [isinstance(message, Tokens) for message in messages[:-1]] == [True] * (len(messages) - 1)
        end = messages[-1]
        if kind is None:
            assert isinstance(end, Failed) or end.finish_reason == "cancelled"
            continue
        assert isinstance(end, Done), end
        ids = peer.token_ids(id_)
        assert end.tokens == len(ids)
        assert ids == expected[kind][: len(ids)]
        assert end.finish_reason == "cancelled" or ids == expected[kind]


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_streams_gives_everybody_the_right_tokens(models, expected, seed):
    rng = random.Random(seed)
    tasks = asyncio.all_tasks()
    peers = [Peer(models) for _ in range(3)]
    all_kinds: list[dict[int, int | None]] = [{} for _ in peers]
    gone = Peer(models)
    await asyncio.gather(
        *(storm(peer, rng, kinds, 60) for peer, kinds in zip(peers, all_kinds, strict=True)),
        storm(gone, rng, {}, 30),
    )
    await gone.aclose()
    for peer, kinds in zip(peers, all_kinds, strict=True):
        await peer.connection.wait_idle()
        check(peer, kinds, expected)
        await peer.aclose()
    assert models.users == 0
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_sessions_answers_every_question_once(models, seed):
    rng = random.Random(seed)
    peer = Peer(models)
    asked: dict[int, int] = {}
    live: list[int] = []
    for number in range(1, 31):
        request = Request(
            prompt=[50 + number % 7, 60], max_tokens=30, sampling=SamplingParams(temperature=1.0)
        )
        peer.say(Open(id=number, request=request))
        live.append(number)
        asked[number] = 1
        for _ in range(6):
            id_ = rng.choice(live)
            match rng.randrange(6):
                case 0:
                    peer.say(Append(id=id_, token_ids=[rng.choice([50, 51, 99_999])]))
                case 1:
                    peer.say(Rollback(id=id_, count=rng.randrange(3)))
                case 2:
                    to = 1000 + len(asked)
                    peer.say(Fork(id=id_, to=to))
                    live.append(to)
                    asked[to] = 0
                case 3 if len(live) > 5:
                    peer.say(Cancel(id=id_))
                    live.remove(id_)
                case _:
                    peer.say(Step(id=id_))
                    asked[id_] += 1
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    await peer.connection.wait_idle()
    for id_ in live:
        assert len(peer.of(id_)) == asked[id_], id_
    for id_ in asked:
        assert len(peer.of(id_)) <= asked[id_]
    assert sum(isinstance(message, Stepped) for message in peer.messages) > 20
    peer.say(*(Cancel(id=id_) for id_ in live))
    await peer.connection.wait_idle()
    assert models.users == 0
    assert not peer.connection._desk.live
    assert not peer.connection._desk.parting
    await peer.aclose()


async def test_a_connection_that_ran_for_long_keeps_nothing(models):
    peer = Peer(models)
    peer.say(*(shape(kind, kind) for kind in range(12)))
    await peer.connection.wait_idle()
    counts = []
    for _ in range(3):
        first = 10_000 * (len(counts) + 1)
        for start in range(first, first + 80, 40):
            peer.say(*(shape(i % 12, i) for i in range(start, start + 40)))
            await peer.connection.wait_idle()
        peer.frames.clear()
        gc.collect()
        counts.append(sum(type(item) in KEPT for item in gc.get_objects()))
    # The last stream may still be in the hands of the scheduler's thread: one object of each kind.
    assert counts[2] <= counts[0] + len(KEPT)
    await peer.aclose()
