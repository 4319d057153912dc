"""Real worker processes that are killed, stopped and restarted under load."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import os
import random
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from conformance.requests import mixed_requests, request
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.errors import ModelLoadError
from dcmodel.local import LocalDcModel
from lmql_backends.lmtp.balancer.connecting import connect_by, probe
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.pool import Pool
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.workers import Fleet, WorkerCommand
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.websocket import WebSocketConnector

TOKEN = "a-token-of-the-tests"
WORKER = str(Path(__file__).parents[3] / "fakes" / "fake_worker.py")
# Processes on shared cores start slowly and answer late; what hangs is found all the same.
SETTINGS = BalancerSettings(resume_seconds=60.0, max_pause_seconds=0.5)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
async def alone():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


def command(*arguments: str) -> WorkerCommand:
    return WorkerCommand((sys.executable, WORKER, *arguments), {**os.environ, "DCMODEL_TOKEN": TOKEN})


@asynccontextmanager
async def running(count: int, *arguments: str, settings: BalancerSettings = SETTINGS):
    """A fleet, and a balancer before it."""

    def connector(address: str) -> WebSocketConnector:
        return WebSocketConnector(Address.parse(f"lmtp://{address}"), token=TOKEN)

    pool = Pool(connect_by(connector), probe, settings=settings, rng=random.Random(0))
    fleet = Fleet(pool, [command(*arguments)] * count, rng=random.Random(1))
    try:
        await fleet.start()
        model = BalancedDcModel(pool, await pool.first())
        await pool.wait(lambda: sum(worker.model is not None for worker in pool.workers) == count)
        yield fleet, model
        assert all(not worker.flights and worker.load == 0 for worker in pool.workers)
    finally:
        pids = [process.pid for process in fleet.processes]
        await pool.aclose()
        await fleet.aclose()
        assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def plain(completion):
    return dataclasses.replace(completion, usage=None)


def many(model, count: int) -> list:
    """Greedy and seeded ones, long enough to be hit."""
    items = mixed_requests(model, count, seed=7, temperature=1.0)
    items[::2] = mixed_requests(model, len(items[::2]))
    return [dataclasses.replace(item, max_tokens=30, ignore_eos=True) for item in items]


class Progress:
    """How many requests have ended."""

    def __init__(self) -> None:
        self._done = 0
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def count(self) -> None:
        self._done += 1
        for number, event in self._waiting:
            if number <= self._done:
                event.set()

    async def more(self, number: int) -> None:
        """`number` more than now."""
        event = asyncio.Event()
        self._waiting.append((self._done + number, event))
        await event.wait()


async def under_load(alone, model, disturb) -> None:
    """16 requests at a time until the disturbance is over and none of them has seen less than that; each
    must be exactly right."""
    items = many(alone, 64)
    expected = await asyncio.gather(*(alone.generate(item).completion() for item in items))
    order = itertools.cycle(zip(items, expected, strict=True))
    progress = Progress()
    is_over = False

    async def client():
        last = False
        while not last:
            last = is_over
            item, whole = next(order)
            stream = model.generate(item)
            steps = [step async for step in stream]
            completion = await stream.completion()
            assert tuple(step.token_id for step in steps) == completion.token_ids
            assert plain(completion) == plain(whole)
            progress.count()

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(client())
        await disturb(progress)
        is_over = True


def is_whole(pool: Pool, count: int, without: str) -> bool:
    """Whether so many workers are members, and that one is not."""
    members = [worker.address for worker in pool.workers if worker.model is not None]
    return len(members) == count and without not in members


async def test_killed_processes_lose_nothing_and_are_started_again(alone):
    async with running(2, "0.002") as (fleet, model):

        async def kill(progress):
            rng = random.Random(2)
            for _ in range(2):
                await progress.more(10)
                victim = rng.choice(fleet.processes)
                os.kill(victim.pid, signal.SIGKILL)
                await model.pool.wait(functools.partial(is_whole, model.pool, 2, victim.address))

        await under_load(alone, model, kill)
        assert len(fleet.processes) == 2


async def test_a_stopped_process_is_given_up_and_comes_back(alone):
    settings = dataclasses.replace(SETTINGS, probe_seconds=0.5, probe_deadline=0.7)
    async with running(2, "0.002", settings=settings) as (fleet, model):
        pool = model.pool

        async def stop(progress):
            await progress.more(10)
            victim = fleet.processes[0]
            os.kill(victim.pid, signal.SIGSTOP)
            try:
                await pool.wait(functools.partial(is_whole, pool, 1, victim.address))
            finally:
                os.kill(victim.pid, signal.SIGCONT)
            await pool.wait(lambda: all(worker.model is not None for worker in pool.workers))

        await under_load(alone, model, stop)
        assert len(pool.workers) == 2


async def test_a_rolling_restart_fails_no_request(alone):
    async with running(2, "0.002") as (fleet, model):
        before = {process.pid for process in fleet.processes}

        async def restart(progress):
            await progress.more(10)
            await fleet.restart()

        await under_load(alone, model, restart)
        assert not before & {process.pid for process in fleet.processes}


async def test_a_worker_that_cannot_start_is_an_error_and_leaves_nobody():
    pool = Pool(connect_by(lambda address: None), probe)
    fleet = Fleet(pool, [command(), command("not a number")])
    with pytest.raises(ModelLoadError, match="ended with code 1"):
        await fleet.start()
    assert not fleet.processes
    await pool.aclose()
    await fleet.aclose()


async def test_workers_end_when_their_parent_is_killed(tmp_path):
    program = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from lmql_backends.lmtp.balancer.workers import WorkerProcess, WorkerCommand
import os
async def main():
    command = WorkerCommand(({sys.executable!r}, {WORKER!r}), dict(os.environ))
    worker = await WorkerProcess.start(command)
    print(worker.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    pid = int(await parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    parent._transport.close()
    await asyncio.to_thread(psutil.Process(pid).wait, 20)


async def test_the_model_is_reached_through_a_token(alone):
    async with running(1) as (_, model):
        item = request(alone, "yes")
        assert plain(await model.generate(item).completion()) == plain(
            await alone.generate(item).completion()
        )
