"""Seeded schedules of faults in virtual time: whatever happens, what a reader got is right.

A failing seed is played again with ``DCMODEL_SIMULATE=seed``; ``DCMODEL_SIMULATE=100:5000`` plays a range.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import pytest
from fakes.failing_workers import ClosedFormModel, Site
from fakes.small_tokenizer import small_tokenizer
from fakes.virtual_time import run_virtually

from dcmodel.errors import ConnectionLostError, DcModelError, EngineError, OverloadedError
from dcmodel.types import FinishReason, GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.settings import BalancerSettings

SEEDS = 300
POISON = 99
PLAIN = ClosedFormModel(small_tokenizer())


class Simulation:
    """Some workers, some clients, and somebody who breaks things."""

    def __init__(self, seed: int, *, calm: bool) -> None:
        self.rng = random.Random(seed)
        self.calm = calm
        self.outcomes: Counter[str] = Counter()
        self.site = Site()
        self.next_worker = 0
        self.settings = BalancerSettings(
            streams_per_worker=self.rng.choice((2, 4, 16)),
            max_waiting=1000 if calm else self.rng.choice((2, 8, 1000)),
            drain_seconds=self.rng.choice((0.5, 5.0)),
            block_tokens=4,
            max_blocks=32,
        )

    async def run(self) -> Counter[str]:
        names = [self.new_worker() for _ in range(self.rng.randint(2, 4))]
        self.model = await BalancedDcModel.open(
            names,
            connect=self.site.connect,
            probe=self.site.probe,
            settings=self.settings,
            rng=random.Random(self.rng.random()),
        )
        try:
            breaking = asyncio.create_task(self.break_things())
            async with asyncio.timeout(600):
                await asyncio.gather(*(self.client(number) for number in range(10)))
            breaking.cancel()
            await asyncio.wait([breaking])
            if not breaking.cancelled():
                breaking.result()
            await self.check_the_end()
        finally:
            await self.model.aclose()
        return self.outcomes

    # -- clients -----------------------------------------------------------------------------------

    async def client(self, number: int) -> None:
        rng = random.Random(self.rng.random())
        for turn in range(3):
            await asyncio.sleep(rng.uniform(0, 6))
            kind = rng.random()
            prompt = (2 + number % 4, 3, 4, 5, 6 + turn, *range(10, 10 + rng.randint(0, 20)))
            if kind < 0.15:
                await self.score(prompt)
            elif kind < 0.2 and not self.calm:
                await self.generate(rng, (POISON, *prompt))
            else:
                await self.generate(rng, prompt)

    async def generate(self, rng: random.Random, prompt: tuple[int, ...]) -> None:
        sampling = SamplingParams(temperature=rng.choice((0.0, 1.0)), seed=rng.randrange(1000))
        item = GenerateRequest(prompt_ids=prompt, max_tokens=rng.randint(1, 60), sampling=sampling)
        expected = PLAIN.expected(item)
        cancel_at = rng.randint(0, 30) if rng.random() < 0.15 else None
        got: list[int] = []
        stream = self.model.generate(item)
        try:
            while True:
                if len(got) == cancel_at:
                    stream.cancel()
                step = await anext(stream, None)
                if step is None:
                    break
                got.append(step.token_id)
                if rng.random() < 0.02:
                    await asyncio.sleep(rng.uniform(0, 3))  # a reader that is slow now and then
            completion = await stream.completion()
        except DcModelError as error:
            self.failed(error, prompt)
            assert tuple(got) == expected[: len(got)]
            return
        assert completion.token_ids[: len(got)] == tuple(got) == expected[: len(got)]
        assert completion.text == "".join(f"<{token}>" for token in completion.token_ids)
        known = [item.raw_logprob for item in completion.logprobs]
        assert known == [-token for token in completion.token_ids]
        if completion.finish_reason is FinishReason.CANCELLED:
            assert cancel_at is not None
            self.outcomes["cancelled"] += 1
        else:
            assert completion.token_ids == tuple(got) == expected
            self.outcomes["whole"] += 1

    async def score(self, prompt: tuple[int, ...]) -> None:
        try:
            result = await self.model.score(ScoreRequest(prompt_ids=prompt, continuations=((3, 4), (9,))))
        except DcModelError as error:
            self.failed(error, prompt)
        else:
            assert [item.logprobs for item in result.continuations] == [(-1.5, -2.0), (-4.5,)]
            self.outcomes["scored"] += 1

    def failed(self, error: DcModelError, prompt: tuple[int, ...]) -> None:
        assert isinstance(error, OverloadedError | ConnectionLostError | EngineError), error
        assert not self.calm, f"nothing may fail here: {error!r}"
        if isinstance(error, EngineError):
            assert "2 workers were lost" in str(error)
        self.outcomes[type(error).__name__] += 1

    # -- faults ------------------------------------------------------------------------------------

    async def break_things(self) -> None:
        """Calm: one fault at a time, and time to recover. Otherwise anything at any time."""
        while True:
            await asyncio.sleep(self.rng.uniform(8, 12) if self.calm else self.rng.uniform(0, 1.5))
            names = [worker.address for worker in self.model.pool.workers]
            if not names:
                self.model.pool.add(self.new_worker())
                continue
            name = self.rng.choice(names)
            faults = (self.kill, self.hang, self.slow, self.join, self.leave)
            if not self.calm:
                faults = (*faults, self.refuse, self.kill)
            await self.rng.choice(faults)(name)

    async def kill(self, name: str) -> None:
        worker = self.site.workers[name]
        worker.kill()
        self.later(self.rng.uniform(0.1, 4), worker.restart)

    async def hang(self, name: str) -> None:
        worker = self.site.workers[name]
        worker.hang()
        self.later(self.rng.uniform(0.1, 7), worker.wake)

    async def slow(self, name: str) -> None:
        self.site.workers[name].model.seconds = self.rng.choice((0.001, 0.01, 0.2))

    async def refuse(self, name: str) -> None:
        worker = self.site.workers[name]
        worker.is_refusing = True
        self.later(self.rng.uniform(0.1, 3), lambda: setattr(worker, "is_refusing", False))

    async def join(self, name: str) -> None:
        if len(self.model.pool.workers) < 6:
            self.model.pool.add(self.new_worker())

    async def leave(self, name: str) -> None:
        if len(self.model.pool.workers) > 2:
            await self.model.pool.remove(name)

    def later(self, seconds: float, call) -> None:
        asyncio.get_running_loop().call_later(seconds, call)

    def new_worker(self) -> str:
        name = f"w{self.next_worker}"
        self.next_worker += 1
        model = ClosedFormModel(small_tokenizer(), seconds=self.rng.choice((0.005, 0.02, 0.05)))
        self.site.add(name, model).deadly_token = POISON
        return name

    # -- afterwards --------------------------------------------------------------------------------

    async def check_the_end(self) -> None:
        pool = self.model.pool
        assert pool.admission.num_waiting == 0
        assert (pool.budget.active, pool.budget.retrying) == (0, 0)
        for worker in pool.workers:
            assert (worker.load, len(worker.flights)) == (0, 0)
            assert len(worker.prefixes) <= self.settings.max_blocks
        sent = Counter(
            (item.prompt_ids, item.max_tokens, item.sampling.seed)
            for worker in self.site.workers.values()
            for item in worker.begun
            if POISON in item.prompt_ids
        )
        assert max(sent.values(), default=0) <= 2, "a poison request was sent a third time"
        # Whatever was broken mends by itself.
        for worker in self.site.workers.values():
            worker.restart()
            worker.is_refusing = False
        await asyncio.sleep(3 * self.settings.max_pause_seconds)
        item = GenerateRequest(prompt_ids=(7,), max_tokens=5)
        if pool.workers:
            assert (await self.model.generate(item).completion()).token_ids == PLAIN.expected(item)
        for worker in self.site.workers.values():
            assert worker.model.running == 0


def seeds(count: int) -> range:
    chosen = os.environ.get("DCMODEL_SIMULATE", "")
    if not chosen:
        return range(count)
    first, _, last = chosen.partition(":")
    return range(int(first), int(last or int(first) + 1))


@pytest.mark.parametrize("calm", [False, True], ids=["storm", "calm"])
def test_every_schedule_of_faults_ends_well(calm):
    outcomes: Counter[str] = Counter()
    for seed in seeds(SEEDS // 2):
        try:
            outcomes += run_virtually(Simulation(seed, calm=calm).run())
        except BaseException as error:
            error.add_note(f"seed {seed}, {'calm' if calm else 'storm'}")
            raise
    assert outcomes["whole"] > 0
    if len(seeds(SEEDS)) == SEEDS:
        happened = {"whole", "scored", "cancelled"}
        if not calm:
            happened |= {"OverloadedError", "EngineError"}
        assert happened <= set(outcomes), outcomes
