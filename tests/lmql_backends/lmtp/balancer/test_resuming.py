"""A request outlives its worker: nothing lost, nothing twice, and the same tokens as without the loss."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from fakes.failing_workers import ClosedFormModel, Site
from fakes.small_tokenizer import small_tokenizer
from fakes.virtual_time import run_virtually

from dcmodel.errors import (
    ConnectionLostError,
    ConstraintRuntimeError,
    EngineError,
    InvalidRequestError,
    ModelClosedError,
    OverloadedError,
)
from dcmodel.types import FinishReason, GenerateRequest, SamplingParams, ScoreRequest
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.worker import WorkerState

MODEL = ClosedFormModel(small_tokenizer())


def request(*prompt: int, tokens: int = 10, seed: int | None = 3) -> GenerateRequest:
    sampling = SamplingParams(temperature=1.0, seed=seed)
    return GenerateRequest(prompt_ids=prompt or (5, 6, 7), max_tokens=tokens, sampling=sampling)


class Bench:
    """A site with workers `w0`, `w1` …, and a balancer before them."""

    def __init__(self, count: int, **settings) -> None:
        self.site = Site()
        self.names = [f"w{number}" for number in range(count)]
        for name in self.names:
            self.site.add(name, ClosedFormModel(small_tokenizer()))
        self.settings = BalancerSettings(**settings)

    async def __aenter__(self) -> Bench:
        self.model = await BalancedDcModel.open(
            self.names,
            connect=self.site.connect,
            probe=self.site.probe,
            settings=self.settings,
            rng=random.Random(1),
        )
        self.pool = self.model.pool
        await asyncio.sleep(0.01)  # all join
        return self

    async def __aexit__(self, *_) -> None:
        try:
            assert self.pool.admission.num_waiting == 0
            assert all(worker.load == 0 and not worker.flights for worker in self.pool.workers)
            assert (self.pool.budget.active, self.pool.budget.retrying) == (0, 0)
        finally:
            await self.model.aclose()

    def __getitem__(self, name: str):
        return self.site.workers[name]

    def home(self):
        """The fake worker that runs something."""
        return next(self.site.workers[item.address] for item in self.pool.workers if item.flights)

    def state(self, name: str) -> WorkerState:
        return next(worker.state for worker in self.pool.workers if worker.address == name)


async def read(stream, count: int) -> list:
    return [await anext(stream) for _ in range(count)]


def test_a_killed_worker_loses_and_doubles_no_token():
    async def main():
        async with Bench(2) as bench:
            stream = bench.model.generate(request(seed=None))
            steps = await read(stream, 4)
            bench.home().kill()
            steps += [step async for step in stream]
            completion = await stream.completion()
            begun = [item for worker in bench.site.workers.values() for item in worker.begun]
            assert [item.resumed for item in begun if item.resumed] == [completion.token_ids[:4]]
            assert len({item.sampling.seed for item in begun}) == 1
            assert MODEL.expected(begun[0]) == completion.token_ids
            assert completion.token_ids == tuple(step.token_id for step in steps)
            assert completion.text == "".join(step.text for step in steps)
            assert [item.raw_logprob for item in completion.logprobs] == [
                step.logprobs.raw_logprob for step in steps
            ]
            assert completion.usage.completion_tokens == 10

    run_virtually(main())


def test_a_worker_that_hangs_is_given_up_within_six_seconds_and_comes_back():
    async def main():
        async with Bench(2) as bench:
            loop = asyncio.get_running_loop()
            stream = bench.model.generate(request())
            await read(stream, 3)
            home = bench.home()
            home.hang()
            hung_at = loop.time()
            step = await anext(stream)
            assert step.token_id == MODEL.token(request(), 3)
            assert loop.time() - hung_at < 6.0
            assert (await stream.completion()).token_ids == MODEL.expected(request())
            name = next(name for name in bench.names if bench[name] is home)
            assert bench.state(name) is WorkerState.JOINING
            home.wake()
            await asyncio.sleep(2 * bench.settings.max_pause_seconds)
            assert bench.state(name) is WorkerState.READY

    run_virtually(main())


def test_a_slow_worker_that_still_gives_tokens_is_not_given_up():
    async def main():
        async with Bench(1) as bench:
            bench["w0"].model.seconds = 1.0
            stream = bench.model.generate(request(tokens=30))

            async def never(_):
                await asyncio.Event().wait()

            bench.pool._probe = never
            assert (await stream.completion()).token_ids == MODEL.expected(request(tokens=30))
            assert bench.pool.workers[0].joined == 1

    run_virtually(main())


def test_a_single_worker_that_restarts_goes_on_with_its_streams():
    async def main():
        async with Bench(1) as bench:
            stream = bench.model.generate(request())
            await read(stream, 3)
            bench["w0"].kill()
            asyncio.get_running_loop().call_later(3.0, bench["w0"].restart)
            assert (await stream.completion()).token_ids == MODEL.expected(request())

    run_virtually(main())


def test_a_stream_without_any_worker_ends_with_an_error_after_a_while():
    async def main():
        async with Bench(1) as bench:
            loop = asyncio.get_running_loop()
            stream = bench.model.generate(request())
            await read(stream, 3)
            bench["w0"].kill()
            began = loop.time()
            with pytest.raises(ConnectionLostError, match="no other took the request over"):
                await stream.completion()
            assert loop.time() - began == pytest.approx(bench.settings.resume_seconds)
            with pytest.raises(ConnectionLostError):
                await anext(stream)

    run_virtually(main())


def test_a_poison_request_is_not_sent_to_a_third_worker():
    async def main():
        async with Bench(4) as bench:
            for name in bench.names:
                bench[name].deadly_token = 99
            with pytest.raises(EngineError, match="2 workers were lost"):
                await bench.model.generate(request(99)).completion()
            assert sum(len(bench[name].begun) for name in bench.names) == 2
            assert (await bench.model.generate(request()).completion()).token_ids == MODEL.expected(request())

    run_virtually(main())


def test_a_request_that_made_progress_is_not_suspected():
    async def main():
        async with Bench(3, forgiven_tokens=5, max_migrations=1) as bench:
            stream = bench.model.generate(request(tokens=60))
            for _ in range(6):
                await read(stream, 6)
                home = bench.home()
                home.kill()
                asyncio.get_running_loop().call_later(0.1, home.restart)
            assert (await stream.completion()).token_ids == MODEL.expected(request(tokens=60))

    run_virtually(main())


def test_the_requests_own_errors_are_not_the_workers():
    class Failing(ClosedFormModel):
        def generate(self, item):
            if item.prompt_ids == (8,):
                raise InvalidRequestError("no eights.")
            return super().generate(item)

        async def score(self, item):
            raise ConstraintRuntimeError("always.")

    async def main():
        bench = Bench(1)
        bench.site.add("w0", Failing(small_tokenizer()))
        async with bench:
            with pytest.raises(InvalidRequestError, match="no eights"):
                await bench.model.generate(request(8)).completion()
            with pytest.raises(ConstraintRuntimeError):
                await bench.model.score(ScoreRequest(prompt_ids=(2,), continuations=((3,),)))
            with pytest.raises(InvalidRequestError, match="9999"):
                bench.model.generate(request(9999))
            worker = bench.pool.workers[0]
            assert (worker.state, worker.lost, worker.joined) == (WorkerState.READY, 0, 1)

    run_virtually(main())


def test_cancelling_reaches_the_worker():
    async def main():
        async with Bench(1) as bench:
            stream = bench.model.generate(request(tokens=1000))
            steps = await read(stream, 3)
            stream.cancel()
            completion = await stream.completion()
            assert completion.finish_reason is FinishReason.CANCELLED
            assert completion.token_ids[:3] == tuple(step.token_id for step in steps)
            assert len(completion.token_ids) <= 4
            stream.cancel()

    run_virtually(main())


def test_a_stream_that_is_dropped_frees_its_place():
    async def main():
        async with Bench(1) as bench:
            stream = bench.model.generate(request(tokens=1000))
            await read(stream, 3)
            del stream
            await asyncio.sleep(0.1)
            assert bench.pool.workers[0].load == 0
            assert bench["w0"].model.running == 0

    run_virtually(main())


def test_a_cancelled_reader_cancels_what_it_waited_for():
    async def main():
        async with Bench(1) as bench:
            bench["w0"].hang()
            waiting = asyncio.create_task(bench.model.generate(request()).completion())
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            bench["w0"].wake()
            await asyncio.sleep(0.1)

    run_virtually(main())


def test_cancelled_while_it_waits_for_another_worker():
    async def main():
        async with Bench(1) as bench:
            stream = bench.model.generate(request())
            steps = await read(stream, 4)
            bench["w0"].kill()
            reading = asyncio.create_task(anext(stream, None))
            await asyncio.sleep(1)
            stream.cancel()
            assert await reading is None
            completion = await stream.completion()
            assert completion.finish_reason is FinishReason.CANCELLED
            assert completion.token_ids == tuple(step.token_id for step in steps)
            assert completion.text == "".join(step.text for step in steps)
            assert len(completion.logprobs) == len(completion.forced) == 4
            assert not any(math.isnan(item.raw_logprob) for item in completion.logprobs)

    run_virtually(main())


def test_a_lost_score_is_asked_elsewhere():
    async def main():
        async with Bench(2) as bench:
            ask = ScoreRequest(prompt_ids=(2, 3), continuations=((4, 5), (6,)))
            for worker in bench.site.workers.values():
                worker.model.seconds = 1.0
            asking = asyncio.create_task(bench.model.score(ask))
            await asyncio.sleep(0.5)
            bench.home().kill()
            result = await asking
            assert [item.logprobs for item in result.continuations] == [(-2.0, -2.5), (-3.0,)]

    run_virtually(main())


def test_a_worker_that_leaves_gives_its_streams_time_and_then_moves_them():
    async def main():
        async with Bench(2, drain_seconds=5.0) as bench:
            loop = asyncio.get_running_loop()
            short, long = request(5, tokens=100), request(6, tokens=1000)
            for name in bench.names:
                bench[name].model.seconds = 0.02
            streams = [bench.model.generate(item) for item in (short, long, short, long)]
            waiting = [asyncio.create_task(stream.completion()) for stream in streams]
            await asyncio.sleep(0.1)
            began = loop.time()
            assert await bench.pool.remove("w0")
            assert loop.time() - began == pytest.approx(5.0, abs=0.1)
            assert [worker.address for worker in bench.pool.workers] == ["w1"]
            assert all(not item.resumed for item in bench["w1"].begun if item.prompt_ids == (5,))
            for item, task in zip((short, long, short, long), waiting, strict=True):
                assert (await task).token_ids == MODEL.expected(item)
            assert not await bench.pool.remove("w0")

    run_virtually(main())


def test_workers_join_at_run_time_and_other_models_are_refused():
    async def main():
        async with Bench(1) as bench:
            bench.site.add("new", ClosedFormModel(small_tokenizer()))
            bench.site.add("other", ClosedFormModel(small_tokenizer(), name="another"))
            bench.pool.add("new")
            bench.pool.add("new")
            refused = bench.pool.add("other")
            await asyncio.sleep(0.1)
            assert bench.state("new") is WorkerState.READY
            assert refused.state is WorkerState.JOINING
            assert "name is 'another', not 'closed'" in refused.error
            assert len(bench.pool.workers) == 3
            await asyncio.gather(*(bench.model.generate(request(n)).completion() for n in range(2, 12)))
            assert len(bench["new"].begun) == 5
            assert not bench["other"].begun
            assert await bench.pool.remove("other")

    run_virtually(main())


def test_a_full_queue_and_no_workers_are_answered_at_once():
    async def main():
        async with Bench(1, streams_per_worker=2, max_waiting=3) as bench:
            loop = asyncio.get_running_loop()
            began = loop.time()
            streams = [bench.model.generate(request(n, tokens=100)) for n in range(2, 7)]
            late = bench.model.generate(request(50))
            with pytest.raises(OverloadedError, match="3 requests are waiting") as caught:
                await late.completion()
            assert caught.value.retry_after == 1.0
            assert loop.time() == began
            for n, stream in enumerate(streams, 2):
                assert (await stream.completion()).token_ids == MODEL.expected(request(n, tokens=100))
            bench["w0"].kill()
            await asyncio.sleep(3)
            began = loop.time()
            with pytest.raises(OverloadedError, match="no worker is available"):
                await bench.model.generate(request()).completion()
            with pytest.raises(OverloadedError, match="no worker is available"):
                await bench.model.score(ScoreRequest(prompt_ids=(2,), continuations=((3,),)))
            assert loop.time() == began
            bench["w0"].restart()
            await asyncio.sleep(2 * bench.settings.max_pause_seconds)
            assert (await bench.model.generate(request()).completion()).token_ids == MODEL.expected(request())

    run_virtually(main())


def test_a_retry_storm_stays_small():
    async def main():
        async with Bench(3) as bench:
            for worker in bench.site.workers.values():
                worker.is_refusing = True

            refusals = []
            for worker in bench.site.workers.values():
                for link in worker.links:
                    original = link.refuse_if_asked
                    link.refuse_if_asked = lambda original=original: (refusals.append(1), original())

            async def client(number: int) -> int:
                rng = random.Random(number)
                failures = 0
                for _ in range(20):
                    await asyncio.sleep(rng.uniform(0, 0.5))
                    try:
                        await bench.model.generate(request(2 + number % 300)).completion()
                        return failures
                    except OverloadedError as error:
                        failures += 1
                        await asyncio.sleep((error.retry_after or 0.0) + rng.uniform(0, 1.0))
                raise AssertionError("never served")

            def recover():
                for worker in bench.site.workers.values():
                    worker.is_refusing = False

            asyncio.get_running_loop().call_later(5.0, recover)
            asked = sum(await asyncio.gather(*(client(number) for number in range(1000)))) + 1000
            assert len(refusals) - 1000 <= 0.2 * asked, (len(refusals), asked)

    run_virtually(main())


def test_closing_fails_what_runs_and_what_comes():
    async def main():
        bench = Bench(1, streams_per_worker=1)
        async with bench:
            streams = [bench.model.generate(request(n, tokens=100)) for n in (2, 3)]
            waiting = [asyncio.create_task(stream.completion()) for stream in streams]
            await asyncio.sleep(0.05)
            await bench.model.aclose()
            for task in waiting:
                with pytest.raises(ModelClosedError):
                    await task
            with pytest.raises(ModelClosedError):
                await bench.model.generate(request()).completion()

    run_virtually(main())
