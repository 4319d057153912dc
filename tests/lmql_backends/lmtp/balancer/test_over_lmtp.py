"""Workers behind LMTP: the balancer over connections that are cut, and a server's connection over that."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest
from conformance.requests import mixed_requests, request
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.errors import ConnectionLostError
from dcmodel.local import LocalDcModel
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.balancer.connecting import connect_by, probe
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.clients.in_process import InProcessConnector
from lmql_backends.lmtp.clients.transport import Connector
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.protocol.messages import GoAway
from lmql_backends.lmtp.server.models import StaticModels

# Connections are cut here as they never are, so no request is suspected of doing it.
SETTINGS = BalancerSettings(pause_seconds=0.01, max_pause_seconds=0.05, deadly=100, max_migrations=100)


class CuttableConnector(Connector):
    """Connections to one model of this process, which can all be cut."""

    def __init__(self, name: str, model: LocalDcModel) -> None:
        self.name = name
        self.model = model
        self.is_down = False
        self._inner = InProcessConnector(StaticModels({"fake": model}))
        self._open = []

    async def connect(self, receiver):
        if self.is_down:
            raise ConnectionLostError(f"nobody listens at {self.name}.")
        transport = await self._inner.connect(receiver)
        self._open.append((receiver, transport))
        return transport

    def cut(self) -> None:
        """As when the process is killed."""
        opened, self._open = self._open, []
        for receiver, _ in opened:
            receiver.on_lost(ConnectionLostError("the connection was reset."))

    def say_goodbye(self) -> None:
        for receiver, _ in self._open:
            receiver.on_messages([GoAway(reason="it is about to end")])


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
async def alone():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


@pytest.fixture
async def sites():
    sites = {
        name: CuttableConnector(name, LocalDcModel(loaded_fake(small_tokenizer())))
        for name in ("a:1", "b:1", "c:1")
    }
    yield sites
    for site in sites.values():
        await site.model.aclose()


@pytest.fixture
async def balanced(sites):
    async with await BalancedDcModel.open(
        sites, connect=connect_by(sites.__getitem__), probe=probe, settings=SETTINGS, rng=random.Random(0)
    ) as model:
        await model.pool.wait(lambda: all(worker.model for worker in model.pool.workers))
        yield model
        assert all(not worker.flights and worker.load == 0 for worker in model.pool.workers)


@pytest.fixture
async def client(balanced):
    """A client of a server over the balancer: what users see."""
    connector = InProcessConnector(StaticModels({"fake": balanced}))
    async with await LMTPDcModel.open(connector, loop=asyncio.get_running_loop()) as model:
        yield model


def plain(completion):
    return dataclasses.replace(completion, usage=None, parsed=None)


async def test_many_streams_through_the_balancer_while_workers_are_cut(alone, client, sites):
    items = mixed_requests(alone, 60, seed=5, temperature=1.0) + mixed_requests(alone, 20)
    items += [request(alone, "no", constraint=Regex("[a-z ]{20,40}"), max_tokens=60, top_logprobs=2)] * 4
    expected = await asyncio.gather(*(alone.generate(item).completion() for item in items))
    rng = random.Random(1)

    async def run(item):
        stream = client.generate(item)
        steps = []
        async for step in stream:
            steps.append(step)
            if rng.random() < 0.01:
                rng.choice(list(sites.values())).cut()
        completion = await stream.completion()
        assert "".join(step.text for step in steps) == completion.text[: sum(len(s.text) for s in steps)]
        return completion

    got = await asyncio.gather(*map(run, items))
    assert [plain(item) for item in got] == [plain(item) for item in expected]


async def test_a_watched_stream_goes_on_elsewhere_when_nobody_waits(alone, balanced, sites):
    item = request(alone, "yes", max_tokens=40, ignore_eos=True)
    expected = await alone.generate(item).completion()
    stream = balanced.generate(item)
    news = asyncio.Event()
    assert stream.watch(news.set)
    steps, cut_at = [], 0
    while not stream.is_exhausted:
        while new := stream.ready(3):
            steps += new
        if len(steps) >= cut_at + 3 and stream._flight is not None:
            sites[stream._flight.worker.address].cut()
            cut_at = len(steps)
        if not stream.is_exhausted:
            await news.wait()
            news.clear()
    assert cut_at > 6
    assert tuple(step.token_id for step in steps) == expected.token_ids
    assert plain(await stream.completion()) == plain(expected)


async def test_a_worker_that_says_goodbye_gets_nothing_new_and_ends_what_runs(balanced, sites, alone):
    item = request(alone, "yes", max_tokens=30, ignore_eos=True)
    stream = balanced.generate(item)
    await anext(stream)
    home = stream._flight.worker
    sites[home.address].is_down = True
    sites[home.address].say_goodbye()
    assert not home.accepts(0.0)
    others = [balanced.generate(item) for _ in range(4)]
    assert all(other._flight.worker is not home for other in others)
    expected = await alone.generate(item).completion()
    for each in (stream, *others):
        assert (await each.completion()).token_ids == expected.token_ids
    assert stream._attempts._deaths == 0
    sites[home.address].is_down = False
    await balanced.pool.wait(lambda: home.model is not None)


async def test_another_model_at_the_same_address_is_refused(balanced, sites, alone):
    other = LocalDcModel(loaded_fake(small_tokenizer(), max_positions=99))
    site = sites["a:1"]
    site._inner = InProcessConnector(StaticModels({"fake": other}))
    site.cut()
    worker = next(worker for worker in balanced.pool.workers if worker.address == "a:1")
    await balanced.pool.wait(lambda: "serves another model" in worker.error)
    assert "max_positions is 99, not 512" in worker.error
    item = request(alone, "yes")
    assert (await balanced.generate(item).completion()).text == (await alone.generate(item).completion()).text
    await other.aclose()


async def test_sessions_of_a_client_outlive_the_workers(alone, client, sites):
    item = request(alone, "The quick", max_tokens=30, seed=3, temperature=1.0, constraint=Regex("[a-z ]*"))

    async def walk(model, cut=lambda: None):
        root = await model.session(item)
        texts = []
        for _ in range(4):
            cut()
            texts.append((await root.step()).token_id)
        fork = root.fork()
        root.rollback(2)
        for session in (fork, root):
            cut()
            texts.append((await session.step()).token_id)
            texts.append(session.text)
            texts.append([round(value, 4) for value in session.token_logprobs])
        return texts

    order = iter(list(sites.values()) * 5)
    assert await walk(client, lambda: next(order).cut()) == await walk(alone)


async def test_scores_and_distributions_pass_through(alone, client):
    ids = request(alone, "The quick").prompt_ids
    ask = ScoreRequest(prompt_ids=ids, continuations=((5, 6), (7,)), top_logprobs=2, prompt_logprobs=1)
    left, right = await client.score(ask), await alone.score(ask)
    assert (left.continuations, left.prompt) == (right.continuations, right.prompt)
    found, expected = await client.next_tokens([ids], None, 4), await alone.next_tokens([ids], None, 4)
    assert found[0].token_ids.tolist() == expected[0].token_ids.tolist()
