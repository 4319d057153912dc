"""A session that lost its worker is the same one on another: text, random numbers of its forks, scores."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest
from fakes.failing_workers import Site
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.errors import ConnectionLostError, ConstraintViolationError, InvalidRequestError
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.settings import BalancerSettings

SAMPLING = SamplingParams(temperature=1.0, seed=11)


@pytest.fixture
async def alone():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


@pytest.fixture
async def site():
    site = Site()
    for name in ("a", "b", "c"):
        loaded = loaded_fake(small_tokenizer())
        site.add(name, LocalDcModel(loaded)).engine = loaded.engine
    yield site
    for worker in site.workers.values():
        await worker.model.aclose()


@pytest.fixture
async def balanced(site):
    settings = BalancerSettings(pause_seconds=0.01, max_pause_seconds=0.05)
    async with await BalancedDcModel.open(
        site.workers, connect=site.connect, probe=site.probe, settings=settings, rng=random.Random(0)
    ) as model:
        yield model
        assert all(not worker.flights and worker.load == 0 for worker in model.pool.workers)


def kill_home(site: Site, session) -> None:
    home = site.workers[session._worker.address]
    home.kill()
    home.restart()


def prompt(model, **options) -> GenerateRequest:
    ids = tuple(model.tokenizer.encode("The quick brown fox"))
    return GenerateRequest(prompt_ids=ids, sampling=SAMPLING, **options)


async def walk(model, lose=lambda session: None) -> list:
    """Forks, rollbacks and appended tokens; `lose` is called between them."""
    seen = []
    root = await model.session(prompt(model, max_tokens=40, constraint=Regex("[a-z ]*")))
    for _ in range(3):
        seen.append(await root.step())
    root.append(root.forced())
    root.append(model.tokenizer.encode("ab"))
    lose(root)
    first, second = root.fork(), root.fork()
    lose(root)
    third = second.fork()
    third.append(model.tokenizer.encode("c"), forced=True)
    for session in (third, second, first, root):
        lose(session)
        seen.append(await session.step())
        seen.append(await session.step(attempt=2))
    third.rollback(2)
    lose(third)
    seen.append(await third.step(sampling=SamplingParams(temperature=0.5)))
    last = third.fork()
    lose(last)
    seen.append(await last.step(list(range(2, 200))))
    await last.settle()
    for session in (root, first, second, third, last):
        lose(session)
        await session.settle()
        seen += [session.token_ids, session.text, session.is_accepting, session.max_tokens]
        seen.append([round(value, 4) for value in session.token_logprobs])
        seen.append(dataclasses.replace(session.completion(), usage=None))
    distribution = await root.logprobs(k=5)
    seen.append(distribution.token_ids.tolist())
    return seen


async def test_a_session_through_the_balancer_is_that_of_the_model(alone, balanced):
    assert await walk(balanced) == await walk(alone)


async def test_a_session_that_is_lost_at_every_step_is_that_of_the_model(alone, balanced, site):
    kills = []

    def lose(session):
        kills.append(session._worker.address)
        kill_home(site, session)

    assert await walk(balanced, lose) == await walk(alone)
    assert len(kills) > 10


async def test_a_session_stays_with_its_worker(balanced):
    session = await balanced.session(prompt(balanced, max_tokens=20))
    home = session._worker
    for _ in range(5):
        await session.step()
    assert session._worker is home


async def test_a_session_leaves_a_worker_that_drains(balanced, alone):
    session = await balanced.session(prompt(balanced, max_tokens=20))
    plain = await alone.session(prompt(alone, max_tokens=20))
    steps = [await session.step()]
    await balanced.pool.remove(session._worker.address)
    steps += [await session.step() for _ in range(4)]
    assert steps == [await plain.step() for _ in range(5)]


async def test_a_sessions_own_errors_are_the_callers(balanced):
    session = await balanced.session(prompt(balanced, max_tokens=2, constraint=Regex("[a-z]+")))
    with pytest.raises(ConstraintViolationError):
        session.append(balanced.tokenizer.encode("7"))
    with pytest.raises(InvalidRequestError, match="allows no token"):
        await session.step([])
    assert session.token_ids == ()
    session.append(balanced.tokenizer.encode("q"))
    session.append(balanced.tokenizer.encode("q"))
    with pytest.raises(InvalidRequestError, match="ended"):
        await session.step()
    assert [worker.lost for worker in balanced.pool.workers] == [0, 0, 0]


async def test_a_session_without_any_worker_ends_with_an_error(site):
    settings = BalancerSettings(resume_seconds=0.05)
    async with await BalancedDcModel.open(
        ["a"], connect=site.connect, probe=site.probe, settings=settings
    ) as model:
        session = await model.session(prompt(model, max_tokens=20))
        await session.step()
        site.workers["a"].kill()
        with pytest.raises(ConnectionLostError):
            await session.step()
        assert len(session.token_ids) == 1


async def test_steps_of_one_turn_are_one_batch(balanced, site):
    sessions = [await balanced.session(prompt(balanced, max_tokens=20)) for _ in range(6)]
    await asyncio.gather(*(session.step() for session in sessions))
    by_home = {session._worker.address for session in sessions}
    engines = [site.workers[name].engine for name in by_home]
    before = [len(engine.batches) for engine in engines]
    await asyncio.gather(*(session.step() for session in sessions))
    assert [len(engine.batches) for engine in engines] == [count + 1 for count in before]


async def test_killed_workers_change_no_stream_of_the_real_model(alone, balanced, site):
    """Constraints, stop strings, sampling and log-probabilities go on behind a loss."""
    constraint = Regex("[a-z ]{10,}")
    items = [
        prompt(alone, max_tokens=24),
        prompt(alone, max_tokens=24, constraint=constraint),
        prompt(alone, max_tokens=24, stop=("ab", "qu"), top_logprobs=3),
        dataclasses.replace(prompt(alone, max_tokens=24), sampling=SamplingParams()),
        dataclasses.replace(prompt(alone, max_tokens=24, constraint=constraint), sampling=SamplingParams()),
        prompt(alone, max_tokens=24, ignore_eos=True, logprobs=False),
    ]
    for item in items:
        expected = alone.generate(item)
        steps = [step async for step in expected]
        stream = balanced.generate(item)
        got = []
        async for step in stream:
            got.append(step)
            if len(got) % 5 == 0 and stream._flight is not None:
                kill_home(site, type("Home", (), {"_worker": stream._flight.worker}))
                stream._attempts._deaths = stream._attempts._moves = 0
        whole, completion = await expected.completion(), await stream.completion()
        assert [(step.token_id, step.text, step.finish_reason) for step in got] == [
            (step.token_id, step.text, step.finish_reason) for step in steps
        ]
        assert (completion.text, completion.token_ids) == (whole.text, whole.token_ids)
        assert (completion.stop_reason, completion.forced) == (whole.stop_reason, whole.forced)
        assert completion.logprobs == whole.logprobs
        assert completion.certificate == whole.certificate


async def test_scores_and_distributions_are_those_of_the_model(alone, balanced, site):
    ids = prompt(alone).prompt_ids
    ask = ScoreRequest(prompt_ids=ids, continuations=((5, 6), (7,)), top_logprobs=2, prompt_logprobs=1)
    left, right = await balanced.score(ask), await alone.score(ask)
    assert left.continuations == right.continuations
    assert left.prompt == right.prompt
    found, expected = await balanced.next_tokens([ids], None, 4), await alone.next_tokens([ids], None, 4)
    assert found[0].token_ids.tolist() == expected[0].token_ids.tolist()
    assert await balanced.next_tokens([]) == []
