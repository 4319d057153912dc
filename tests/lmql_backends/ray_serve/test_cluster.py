"""Two replicas on one machine: the real Ray, the real server, real clients."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import numpy as np
import openai
import pytest
from conformance.requests import assert_same, mixed_requests, prompt_ids, request, run, run_one
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import MaskFunction, Regex
from dcmodel.errors import InvalidRequestError
from dcmodel.llm import LLM
from dcmodel.local import LocalDcModel
from dcmodel.mask import TokenMask
from dcmodel.types import ScoreRequest

pytestmark = [
    pytest.mark.timeout(280),
    # Ray leaves sockets and files to the end of the process.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def served(cluster):
    """The application with two replicas; tests that change it put it back."""
    cluster.deploy(replicas=2, adapters={"law": "seed:5"})
    return cluster


@pytest.fixture
async def alone():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


@pytest.fixture
async def model(served):
    remote = await served.connect()
    yield remote
    await remote.aclose()


@pytest.fixture
async def http():
    async with httpx.AsyncClient(timeout=60.0) as client:
        yield client


async def test_greedy_seeded_and_constrained_requests_give_what_they_give_here(model, alone):
    items = [
        *mixed_requests(alone, 12),
        *mixed_requests(alone, 12, seed=3, temperature=1.0),
        *(request(alone, f"1 2 3 {n}", constraint=Regex("[0-9]{3,7}"), seed=n) for n in range(4)),
        request(alone, "yes", stop=("a",), max_tokens=40, logprobs=True, top_logprobs=3),
    ]
    for ours, theirs in zip(await run(model, items), await run(alone, items), strict=True):
        assert_same(ours, theirs, 1e-6)


async def test_tokens_come_one_after_the_other(model, alone):
    stream = model.generate(request(alone, "city", max_tokens=20, ignore_eos=True))
    steps = [step async for step in stream]
    assert len(steps) == 20
    assert "".join(step.text for step in steps) == (await stream.completion()).text


async def test_scores_and_distributions_give_what_they_give_here(model, alone):
    prompt = prompt_ids(alone, "The quick brown fox")
    scores = ScoreRequest(prompt_ids=prompt, continuations=((5, 6, 7), (5, 6), (9,)))
    assert await model.score(scores) == await alone.score(scores)
    (ours,), (theirs,) = await model.next_tokens([prompt], k=4), await alone.next_tokens([prompt], k=4)
    np.testing.assert_array_equal(ours.token_ids, theirs.token_ids)


async def test_sessions_fork_and_step_under_masks_as_here(model, alone):
    async def play(model):
        session = await model.session(request(alone, "yes", seed=2))
        mask = TokenMask.from_ids(range(20, 40), model.info.vocab_size)
        await session.step(mask)
        fork = session.fork()
        await fork.step(mask)
        await session.step()
        session.rollback(1)
        await session.step(mask)
        return [*session.token_ids], [*fork.token_ids]

    assert await play(model) == await play(alone)


async def test_a_request_names_its_adapter(model, alone):
    await alone.mount_adapter("law", "seed:5")
    assert [info.name for info in model.adapters] == ["law"]
    items = [
        request(alone, f"city {n}", adapter="law" if n % 2 else None, seed=n, max_tokens=16) for n in range(8)
    ]
    for ours, theirs in zip(await run(model, items), await run(alone, items), strict=True):
        assert_same(ours, theirs, 1e-6)


async def test_a_function_of_the_callers_runs_with_the_caller(model, alone):
    def constraint():
        return MaskFunction(lambda token_ids: range(20 + len(token_ids), 60))

    items = [request(alone, "city", constraint=constraint(), max_tokens=8) for _ in range(2)]
    assert_same(await run_one(model, items[0]), await run_one(alone, items[1]), 1e-6)


async def test_a_request_that_is_wrong_says_so(model):
    with pytest.raises(InvalidRequestError):
        await model.score(ScoreRequest(prompt_ids=(1,), continuations=((10**6,),)))


async def test_openais_client_works_streamed_and_whole(served, alone):
    expected = await LLM.from_model(alone).agenerate("city", max_tokens=24, temperature=0.0)
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "fake", "prompt": "city", "max_tokens": 24, "temperature": 0.0}
        whole = await client.completions.create(**asked)
        assert whole.choices[0].text == expected.text
        chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == expected.text
        assert len(chunks) > 4


async def test_prompts_with_one_beginning_go_to_one_replica_and_others_to_both(served, model, alone, http):
    async def served_by() -> dict[str, int]:
        return {worker["address"]: worker["served"] for worker in await served.ready(http, 2)}

    async def went(items) -> list[int]:
        before = await served_by()
        for item in items:
            await run_one(model, item)
        after = await served_by()
        return sorted(after[name] - before[name] for name in after)

    beginning = "The lazy dog jumps over the quick brown fox and the city of Velden. " * 3
    same = [request(alone, f"{beginning}{number}", max_tokens=4) for number in range(10)]
    assert await went(same) == [0, 10]
    different = [request(alone, f"{number} {beginning}", max_tokens=4) for number in range(10)]
    assert await went(different) == [5, 5]


async def test_streams_outlive_the_replica_that_they_began_on(served, alone, http):
    served.deploy(replicas=2, options={"seconds": 0.02})
    before = await served.ready(http, 2)
    remote = await served.connect()
    items = [request(alone, f"city {n}", max_tokens=60, ignore_eos=True, seed=n) for n in range(8)]
    expected = await run(alone, items)
    streams = [remote.generate(item) for item in items]
    for stream in streams:
        await anext(stream)
    victim = before[0]["address"]
    running = {worker["address"]: worker["running"] for worker in await served.workers(http)}
    assert running[victim]
    served.kill(victim)
    for stream, whole in zip(streams, expected, strict=True):
        assert_same(await stream.completion(), whole, 1e-6)
    await served.ready(http, 2, without=victim)
    await remote.aclose()


class Load:
    """So many requests at a time, each of which must be exactly right, until the load is over."""

    def __init__(self, alone, remote, clients: int) -> None:
        self._alone = alone
        self._remote = remote
        self._clients = clients
        self._is_over = False
        self.done = 0

    async def __aenter__(self) -> Load:
        items = mixed_requests(self._alone, 24, seed=7, temperature=1.0)
        self._order = itertools.cycle(zip(items, await run(self._alone, items), strict=True))
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        for _ in range(self._clients):
            self._group.create_task(self._client())
        return self

    async def __aexit__(self, *error) -> None:
        self._is_over = True
        await self._group.__aexit__(*error)
        assert self.done >= self._clients

    async def _client(self) -> None:
        while not self._is_over:
            item, whole = next(self._order)
            assert_same(await run_one(self._remote, item), whole, 1e-6)
            self.done += 1


async def test_a_rolling_update_under_load_loses_nothing(served, alone, http):
    served.deploy(replicas=2, options={"seconds": 0.005})
    before = {worker["address"] for worker in await served.ready(http, 2)}
    remote = await served.connect()
    async with Load(alone, remote, 8):
        await asyncio.to_thread(served.deploy, replicas=2, options={"seconds": 0.004})
        after = {worker["address"] for worker in await served.ready(http, 2)}
    assert not before & after
    await remote.aclose()


async def test_replicas_come_with_the_load_and_go_with_it(served, alone, http):
    scaling = {"upscale_seconds": 0.1, "downscale_seconds": 0.5, "window_seconds": 11.0}
    served.deploy(autoscale="1:2", **scaling, streams_per_replica=2.0, options={"seconds": 0.01})
    await served.ready(http, 1)
    remote = await served.connect()
    async with Load(alone, remote, 8):
        await served.ready(http, 2)
    async with Load(alone, remote, 1):
        await served.ready(http, 1)
    await remote.aclose()
