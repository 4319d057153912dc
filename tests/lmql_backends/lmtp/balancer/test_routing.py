"""Which worker gets a request: the least loaded, or the one that has the prompt."""

from __future__ import annotations

import pytest

from lmql_backends.lmtp.balancer.prefixes import PrefixIndex, block_hashes
from lmql_backends.lmtp.balancer.routing import Router
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.worker import Worker, WorkerState

SETTINGS = BalancerSettings(block_tokens=4, max_blocks=64, streams_per_worker=8)
PROMPT = tuple(range(2, 34))  # eight blocks


@pytest.fixture
async def workers():
    return [joined(name) for name in ("a", "b", "c")]


def joined(name: str) -> Worker:
    worker = Worker(name, SETTINGS.streams_per_worker, SETTINGS.max_blocks, lambda: None)
    worker.enter(object(), None, 0.0)
    return worker


async def test_equal_workers_take_turns(workers):
    router = Router(SETTINGS)
    chosen = []
    for place in range(6):
        work = router.work((2, 3, 4, place), 10)
        worker = router.choose(workers, work, 0.0)
        chosen.append(worker.address)
        router.launch(worker, work).end()
    assert chosen == ["a", "b", "c"] * 2


async def test_the_least_loaded_worker_is_taken(workers):
    router = Router(SETTINGS)
    workers[0].fly(100)
    workers[1].fly(10)
    workers[2].fly(50)
    assert router.choose(workers, router.work((2, 3), 10), 0.0) is workers[1]


async def test_the_worker_that_has_the_prompt_is_taken_while_that_saves_more_than_its_load(workers):
    router = Router(SETTINGS)
    router.launch(workers[1], router.work(PROMPT, 0)).end()
    work = router.work(PROMPT, 0)
    workers[1].fly(32)
    assert router.choose(workers, work, 0.0) is workers[1]  # load 32 <= 1.25 * 0 + 32 saved
    workers[1].fly(1)
    assert router.choose(workers, work, 0.0) is workers[0]
    for worker in (workers[0], workers[2]):
        worker.fly(4)
    assert router.choose(workers, work, 0.0) is workers[1]  # load 33 <= 1.25 * 4 + 32


async def test_a_known_prefix_makes_the_load_smaller(workers):
    router = Router(SETTINGS)
    first = router.launch(workers[0], router.work(PROMPT, 5))
    assert workers[0].load == len(PROMPT) + 5
    second = router.launch(workers[0], router.work((*PROMPT, 40, 41), 5))
    assert workers[0].load == len(PROMPT) + 5 + 2 + 5
    first.progress(1.0)
    assert workers[0].load == 4 + 2 + 5  # the first token: the prompt is computed
    first.end()
    second.end()
    assert workers[0].load == 0


async def test_more_tokens_than_announced_never_make_a_load_negative(workers):
    flight = workers[0].fly(2)
    for _ in range(5):
        flight.progress(0.0)
    assert workers[0].load == 0
    flight.end()
    flight.end()
    assert workers[0].load == 0


@pytest.mark.parametrize("state", [state for state in WorkerState if state is not WorkerState.READY])
async def test_only_ready_workers_are_taken(workers, state):
    router = Router(SETTINGS)
    for worker in workers[:2]:
        worker.state = state
    assert router.choose(workers, router.work(PROMPT, 5), 0.0) is workers[2]
    workers[2].state = state
    assert router.choose(workers, router.work(PROMPT, 5), 0.0) is None


async def test_resting_full_and_excluded_workers_are_not_taken(workers):
    router = Router(SETTINGS)
    work = router.work(PROMPT, 5)
    workers[0].resting_until = 5.0
    for _ in range(SETTINGS.streams_per_worker):
        workers[1].fly(0)
    assert router.choose(workers, work, 4.0) is workers[2]
    assert router.choose(workers, work, 4.0, {workers[2]}) is None
    assert router.choose(workers, work, 5.0, {workers[2]}) is workers[0]


def test_equal_blocks_after_different_ones_are_different():
    same = (9, 9, 9, 9)
    left, right = block_hashes((1, 1, 1, 1, *same), 4), block_hashes((2, 2, 2, 2, *same), 4)
    assert left[1] != right[1]
    assert block_hashes((1, 1, 1, 1, 5), 4) == left[:1]
    assert block_hashes((1, 2, 3), 4) == []


def test_an_index_is_bounded_and_forgets_what_was_unused_for_longest():
    index = PrefixIndex(8)
    prompts = [block_hashes([place] * 8, 4) for place in range(5)]
    for blocks in prompts[:4]:
        index.add(blocks)
    index.add(prompts[0])
    index.add(prompts[4])
    assert len(index) == 8
    assert [index.match(blocks) for blocks in prompts] == [2, 0, 2, 2, 2]


def test_a_chain_that_is_longer_than_the_index_keeps_its_beginning():
    index = PrefixIndex(4)
    blocks = block_hashes(range(40), 4)
    index.add(blocks)
    assert index.match(blocks) == 4
    index.add(block_hashes([7] * 4, 4))
    assert index.match(blocks) == 3


async def test_a_worker_that_leaves_is_forgotten(workers):
    from dcmodel.errors import ConnectionLostError

    router = Router(SETTINGS)
    flight = router.launch(workers[0], router.work(PROMPT, 5))
    workers[0].leave(WorkerState.JOINING, ConnectionLostError("gone."))
    assert len(workers[0].prefixes) == 0
    router.landed(flight, PROMPT)
    assert len(workers[0].prefixes) == 0
    flight.end()
    assert workers[0].load == 0
