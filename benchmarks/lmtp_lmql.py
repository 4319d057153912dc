"""Our server against ``lmql serve-model``: the embedded model behind both, LMQL's own client before both."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clock import Spread
from benchmarks.lmtp_lmql_servers import HOST, LmqlServer, OurServer, ServerProcess
from benchmarks.tables import Table, write_json

VOCABULARY = range(3, 3072)
END = 1
STREAMS = (1, 8, 32)
MIXED_TARGET = 5.0
SCORE_TARGET = 30.0
CANDIDATES, CANDIDATE_TOKENS, SCORED_PROMPT = 50, 4, 200
CHAIN_STEPS = 12
ALLOWED = 200
SAMPLING: Sequence[Mapping[str, float]] = (
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 0.0, "repetition_penalty": 1.1},
    {"temperature": 1.2, "top_p": 0.9},
    {"temperature": 0.3},
)


@dataclass(slots=True)
class Outcome:
    """One turn of one server."""

    wall: float
    cpu: float
    """Of the server's process."""
    units: int
    """Tokens that were asked for and came, or candidates."""
    first: float
    """Seconds to a stream's first token, median over the streams."""
    tokens: list[list[int]] = field(default_factory=list)


Work = Callable[[Any, random.Random], Awaitable[Outcome]]


@dataclass(slots=True)
class Job:
    """A workload, and what both servers made of it, turn by turn."""

    name: str
    unit: str
    work: Work
    target: float | None = None
    ours: list[Outcome] = field(default_factory=list)
    theirs: list[Outcome] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="names of workloads, or how they begin")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    missing = [name for name in ("lmql", "aiohttp", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out: {', '.join(missing)} is not installed")
        return 0
    jobs = [job for job in all_jobs() if not options.only or job.name.startswith(tuple(options.only))]
    asyncio.run(measure(jobs, 2 if options.quick else options.rounds))
    table = table_of(jobs)
    print(table.text())
    if options.json:
        write_json(options.json, [table])
    return 0 if all(is_met(job) for job in jobs) else 1


def all_jobs() -> list[Job]:
    jobs = [Job(f"mixed {n}", "tok/s", mixed(n), MIXED_TARGET if n == 32 else None) for n in STREAMS]
    jobs += [Job(f"masked {n}", "tok/s", masked(n)) for n in STREAMS]
    jobs += [Job(f"plain {n}", "tok/s", plain(n)) for n in STREAMS]
    jobs += [Job(f"chain {n}", "tok/s", chain(n)) for n in STREAMS]
    return [*jobs, Job(f"score {CANDIDATES}", "candidates/s", score, SCORE_TARGET)]


async def measure(jobs: Sequence[Job], rounds: int) -> None:
    """Both servers take turns; who begins changes. The first round does not count."""
    ours, theirs = OurServer(), LmqlServer()
    try:
        for number in range(rounds + 1):
            for job in jobs:
                pair = [(ours, job.ours), (theirs, job.theirs)]
                for server, results in pair if number % 2 else reversed(pair):
                    async with connected(server) as client:
                        before = server.cpu_seconds()
                        outcome = await job.work(client, random.Random(f"{job.name} {number}"))
                        outcome.cpu = server.cpu_seconds() - before
                    if number:
                        results.append(outcome)
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    finally:
        ours.close()
        theirs.close()


@asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[Any]:
    """LMQL's own client, one connection."""
    import aiohttp
    from lmql.models.lmtp.lmtp_client import LMTPWebSocketClient

    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{HOST}:{server.port}") as ws:
        client = LMTPWebSocketClient(server.model, ws)
        client.connect()
        yield client
        await ws.close()
        await client.handler


# -- workloads ---------------------------------------------------------------------------------------


def mixed(count: int) -> Work:
    """What several programs ask at a time: 8 ways of sampling, prompts of 16 to 128 tokens, 16 to 64 tokens
    asked for, a mask for each."""

    async def work(client: Any, rng: random.Random) -> Outcome:
        return await streams([masked_stream(client, rng, SAMPLING[place % 8]) for place in range(count)])

    return work


def masked(count: int) -> Work:
    """The same, all greedy: one batch of LMQL's server."""

    async def work(client: Any, rng: random.Random) -> Outcome:
        return await streams([masked_stream(client, rng, SAMPLING[0]) for _ in range(count)])

    return work


def masked_stream(
    client: Any, rng: random.Random, sampling: Mapping[str, float]
) -> Awaitable[tuple[float, list[int]]]:
    return stream(
        client,
        drawn(rng, rng.randint(16, 128)),
        max_tokens=rng.randint(16, 64),
        logit_bias=dict.fromkeys(rng.sample(VOCABULARY, ALLOWED), 100),
        **sampling,
    )


def plain(count: int) -> Work:
    """Prompts of 32 tokens, 64 tokens each, greedy; only the end is forbidden."""

    async def work(client: Any, rng: random.Random) -> Outcome:
        return await streams(
            [
                stream(client, drawn(rng, 32), max_tokens=64, temperature=0.0, logit_bias={END: -100})
                for _ in range(count)
            ]
        )

    return work


def chain(count: int) -> Work:
    """What LMQL asks where the mask changes at each token: the prompt of 200 tokens again, and one more."""

    async def one(client: Any, rng: random.Random) -> tuple[float, list[int]]:
        prompt = drawn(rng, 200)
        begin, first, found = time.perf_counter(), 0.0, []
        for _ in range(CHAIN_STEPS):
            mask = dict.fromkeys(rng.sample(VOCABULARY, ALLOWED), 100)
            _, tokens = await stream(
                client, [*prompt, *found], max_tokens=1, temperature=0.0, logit_bias=mask
            )
            first = first or time.perf_counter() - begin
            found += tokens
        return first, found

    async def work(client: Any, rng: random.Random) -> Outcome:
        return await streams([one(client, random.Random(rng.random())) for _ in range(count)])

    return work


async def score(client: Any, rng: random.Random) -> Outcome:
    """50 candidates of 4 tokens behind one new prompt of 200, all at once."""
    prompt = drawn(rng, SCORED_PROMPT)
    begin = time.perf_counter()

    async def one(candidate: list[int]) -> float:
        items = [item async for item in client.score(prompt, candidate)]
        assert [item["token"] for item in items] == candidate
        return time.perf_counter() - begin

    times = await asyncio.gather(*(one(drawn(rng, CANDIDATE_TOKENS)) for _ in range(CANDIDATES)))
    return Outcome(max(times), 0.0, CANDIDATES, statistics.median(times))


async def streams(works: Sequence[Awaitable[tuple[float, list[int]]]]) -> Outcome:
    begin = time.perf_counter()
    found = await asyncio.gather(*works)
    wall = time.perf_counter() - begin
    tokens = [item for _, item in found]
    return Outcome(wall, 0.0, sum(map(len, tokens)), statistics.median(first for first, _ in found), tokens)


async def stream(
    client: Any, prompt: list[int], *, max_tokens: int, **options: Any
) -> tuple[float, list[int]]:
    """Seconds to the first token; the tokens, no more than were asked for: LMQL's server sends more."""
    begin, first, tokens = time.perf_counter(), 0.0, []
    async for item in client.generate(prompt, max_tokens=max_tokens, **options):
        first = first or time.perf_counter() - begin
        tokens.append(item["token"])
        if len(tokens) == max_tokens:
            break
    return first, tokens


def drawn(rng: random.Random, length: int) -> list[int]:
    """A new prompt, which no cache knows."""
    return [0, *rng.choices(VOCABULARY, k=length - 1)]


# -- what came out -----------------------------------------------------------------------------------


def table_of(jobs: Sequence[Job]) -> Table:
    table = Table(
        "the embedded model, float32, one thread each; LMQL's own client",
        ["workload", "unit", "dcmodel", "lmql", "times", "times (CPU)", "target", "first ms", "lmql's"],
    )
    for job in jobs:
        ours, theirs = rate(job.ours), rate(job.theirs)
        times = ratio(job, lambda outcome: outcome.units / outcome.wall)
        cpu = ratio(job, lambda outcome: outcome.units / max(outcome.cpu, 1e-3))
        first = [Spread.of(1e3 * item.first for item in items) for items in (job.ours, job.theirs)]
        table.add(
            [
                *(job.name, job.unit, ours.text(0), theirs.text(0), times.text(1), cpu.text(1)),
                "" if job.target is None else f"{job.target:g} {'met' if is_met(job) else 'NOT MET'}",
                *(item.text(0) for item in first),
            ],
            workload=job.name,
            ours=ours.median,
            theirs=theirs.median,
            times=times.median,
            times_cpu=cpu.median,
            first_ms=[item.median for item in first],
            target=job.target,
            same_greedy_streams=same_streams(job),
        )
    shares = [share for job in jobs if (share := same_streams(job)) is not None]
    table.notes = [
        "median (range) of the rounds; `times`: of neighbours in the same round, wall and server CPU time",
        "first: milliseconds to a stream's first token (score: to a candidate's answer), median of a round",
        "tokens that nobody asked for do not count; LMQL's server sends them all the same",
    ]
    if shares:
        table.notes.append(f"greedy streams that are equal up to their last token: {min(shares):.0%} or more")
    return table


def rate(outcomes: Sequence[Outcome]) -> Spread:
    return Spread.of(item.units / item.wall for item in outcomes)


def ratio(job: Job, figure: Callable[[Outcome], float]) -> Spread:
    pairs = zip(job.ours, job.theirs, strict=True)
    return Spread.of(figure(ours) / figure(theirs) for ours, theirs in pairs)


def is_met(job: Job) -> bool:
    return job.target is None or ratio(job, lambda outcome: outcome.units / outcome.wall).median >= job.target


def same_streams(job: Job) -> float | None:
    """Of the greedy streams, how many are the same from both; LMQL's server doubles the last token."""
    if job.unit != "tok/s":
        return None
    step = 8 if job.name.startswith("mixed") else 1  # the first of SAMPLING
    pairs = [
        (left[:-1], right[: len(left) - 1])
        for ours, theirs in zip(job.ours, job.theirs, strict=True)
        for left, right in list(zip(ours.tokens, theirs.tokens, strict=True))[::step]
    ]
    return sum(left == right for left, right in pairs) / len(pairs)


if __name__ == "__main__":
    sys.exit(main())
