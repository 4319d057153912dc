"""What sessions cost over a generation, and over the forwards that they need: CPU time on one thread.

python -m benchmarks.sessions --quick
python -m benchmarks.sessions --shape 15m 135m --json results.json
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
import warnings
from collections.abc import Awaitable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from benchmarks.clock import Spread, cpu_seconds, use_one_thread
from benchmarks.metered import MeteredEngine
from benchmarks.tables import Table, write_json
from dcmodel.backend import LoadedEngine, LoadOptions
from dcmodel.engine import GenerateBatch
from dcmodel.local import LocalDcModel
from dcmodel.logits import LogitRows
from dcmodel.mask import TokenMask
from dcmodel.session import Session
from dcmodel.types import GenerateRequest, NextTokens

T = TypeVar("T")
PROMPT = 32
STEPS = 16
BEAMS, BEAM_STEPS, BRANCHING = 8, 20, 16
PREFIXES, LIKELIEST = 32, 8
IDLE_KV = 2048
"""Tokens of KV for all idle sessions together."""
IDLE_SEQUENCES = 16
TIE = 1e-4
"""Nats between two tokens that may change places."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["15m"], choices=["135m", "15m", "embedded"])
    parser.add_argument("--idle", type=int, default=1000, help="idle sessions; default: 1000")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two repeats, 200 idle sessions")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    use_one_thread()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    repeats, idle = (2, 200) if options.quick else (options.repeats, options.idle)
    tables: list[Table] = []
    for shape in options.shape:
        for table in (costs(shape, repeats), idle_sessions(shape, idle)):
            print(table.text(), flush=True)
            tables.append(table)
            if options.json:
                write_json(options.json, tables, command=sys.argv[1:])
    return 0


class ForwardMeter(MeteredEngine):
    """Measures forwards; the rows of logits are the engine's own."""

    def forward(self, batch: GenerateBatch) -> LogitRows:
        begin = time.thread_time()
        rows = self._engine.forward(batch)
        self.meter.forward += time.thread_time() - begin
        self.meter.forwards += 1
        self.meter.tokens += batch.num_tokens
        return rows


class Bench:
    """A model on a measured engine, with an event loop and prompts that no cache knows."""

    def __init__(self, shape: str, *, kv_tokens: int | None = None, max_sequences: int | None = None) -> None:
        from benchmarks.random_models import checkpoint
        from lmql_backends.transformers import BACKEND

        options = LoadOptions(device="cpu", dtype="float32", kv_tokens=kv_tokens, max_sequences=max_sequences)
        loaded = BACKEND.load(str(checkpoint(shape)), options)
        if not isinstance(loaded, LoadedEngine):
            raise TypeError(f"the backend gave a {type(loaded).__name__}")
        self.meter = ForwardMeter(loaded.engine)
        self.model = LocalDcModel(
            LoadedEngine(engine=self.meter, tokenizer=loaded.tokenizer, info=loaded.info)
        )
        self.vocab_size = loaded.info.vocab_size
        self._random = Random(0)
        self._loop = asyncio.new_event_loop()

    def wait(self, coroutine: Awaitable[T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def prompt(self) -> tuple[int, ...]:
        return tuple(self._random.choices(range(5, self.vocab_size), k=PROMPT))

    def request(self, prompt: tuple[int, ...], max_tokens: int) -> GenerateRequest:
        return GenerateRequest(prompt_ids=prompt, max_tokens=max_tokens, ignore_eos=True)

    def opened(self, count: int, max_tokens: int) -> list[Session]:
        """Sessions on new prompts that nothing was asked of yet."""

        async def open_all() -> list[Session]:
            requests = [self.request(self.prompt(), max_tokens) for _ in range(count)]
            return [await self.model.session(request) for request in requests]

        return self.wait(open_all())

    def close(self) -> None:
        self.wait(self.model.aclose())
        self._loop.close()


async def generate(bench: Bench, count: int) -> None:
    streams = [bench.model.generate(bench.request(bench.prompt(), STEPS)) for _ in range(count)]
    await asyncio.gather(*(stream.completion() for stream in streams))


async def steps(sessions: Sequence[Session], mask: TokenMask | None) -> None:
    for _ in range(STEPS):
        await asyncio.gather(*(session.step(mask) for session in sessions))


async def beams(session: Session) -> None:
    """Forks and looks as a beam search does; every beam is extended by its own likeliest tokens."""
    alive = [session]
    for _ in range(BEAM_STEPS):
        looks = await asyncio.gather(*(beam.logprobs(k=BRANCHING) for beam in alive))
        ranked = sorted(
            (
                (-beam.raw_logprob - float(look.raw_logprobs[place]), number, place)
                for number, (beam, look) in enumerate(zip(alive, looks, strict=True))
                for place in range(BRANCHING)
            ),
        )[:BEAMS]
        alive = [_extended(alive[number], looks[number], place) for _, number, place in ranked]


def _extended(beam: Session, look: NextTokens, place: int) -> Session:
    fork = beam.fork()
    fork.append([int(look.token_ids[place])], logprobs=[look.of(place)])
    return fork


def costs(shape: str, repeats: int) -> Table:
    """Each in turns; "forward" is the engine's part of the same run, the floor of what it can cost."""
    bench = Bench(shape)
    mask = TokenMask.from_ids(range(0, bench.vocab_size, 2), bench.vocab_size)
    table = Table(
        f"{shape} float32: sessions, CPU; median (min-max) of {repeats}",
        ["what", "per", "ms", "forward ms", "all/forward", "over generate"],
        notes=[
            f"prompts of {PROMPT} tokens, {STEPS} tokens each, greedy, the prompt's forward included",
            f"beams: {BEAMS} beams, {BEAM_STEPS} steps of logprobs(k={BRANCHING}), fork and append",
            "forward: the engine's share of the same run; mask: a TokenMask of half the vocabulary",
        ],
    )
    seconds: dict[str, list[tuple[float, float]]] = {}
    for repeat in range(repeats + 1):  # the first one warms up
        for name, (divisor, run) in _runs(bench, mask).items():
            bench.meter.reset()
            spent, _ = cpu_seconds(run)
            if repeat:
                pair = (spent / divisor, bench.meter.meter.forward / divisor)
                seconds.setdefault(name, []).append(pair)
    for name, pairs in seconds.items():
        spent, forward = (Spread.of(1000 * value for value in column) for column in zip(*pairs, strict=True))
        share = Spread.of(total / below for total, below in pairs)
        base = seconds.get(f"generate {name.split()[1]}") if name.startswith("step") else None
        over = Spread.of(a / b for (a, _), (b, _) in zip(pairs, base, strict=True)).text() if base else ""
        per = "step" if name.startswith(("generate", "step", "beams")) else "call"
        table.add(
            [name, per, spent.text(), forward.text(), share.text(), over],
            what=name,
            seconds=[pair[0] for pair in pairs],
            forward=[pair[1] for pair in pairs],
        )
    table.notes.append(f"fork: {_fork_microseconds(bench):.1f} us, of a session with {PROMPT + STEPS} tokens")
    bench.close()
    return table


def _runs(bench: Bench, mask: TokenMask):
    """By name: how many steps, and what to run. Sessions are opened here, where nothing is measured."""
    runs = {}
    for count in (1, 16):
        runs[f"generate {count}"] = (STEPS, lambda count=count: bench.wait(generate(bench, count)))
        for name, allowed in (("step", None), ("step+mask", mask)):
            sessions = bench.opened(count, STEPS)
            runs[f"{name} {count}"] = (
                STEPS,
                lambda sessions=sessions, allowed=allowed: bench.wait(steps(sessions, allowed)),
            )
    prefixes = [bench.prompt() for _ in range(2 * PREFIXES)]
    for name, chosen, k in (
        (f"next_tokens {PREFIXES} k={LIKELIEST}", prefixes[:PREFIXES], LIKELIEST),
        (f"next_tokens {PREFIXES} all", prefixes[PREFIXES:], None),
    ):
        runs[name] = (1, lambda chosen=chosen, k=k: bench.wait(bench.model.next_tokens(chosen, k=k)))
    (first,) = bench.opened(1, 2 * BEAM_STEPS)
    runs["beams"] = (BEAM_STEPS, lambda: bench.wait(beams(first)))
    return runs


def _fork_microseconds(bench: Bench) -> float:
    (session,) = bench.opened(1, 2 * STEPS)
    bench.wait(steps([session], None))
    count = 1000
    spent, _ = cpu_seconds(lambda: [session.fork() for _ in range(count)])
    return 1e6 * spent / count


def idle_sessions(shape: str, count: int) -> Table:
    """All step once, are left alone, and step again; the tokens must be those of generations."""
    small, roomy = Bench(shape, kv_tokens=IDLE_KV, max_sequences=IDLE_SEQUENCES), Bench(shape)
    sessions = small.opened(count, 2)

    async def all_step() -> None:
        await asyncio.gather(*(session.step() for session in sessions))

    async def uninterrupted() -> list[tuple[int, ...]]:
        streams = [roomy.model.generate(roomy.request(item.prompt_ids, 2)) for item in sessions]
        return [(await stream.completion()).token_ids for stream in streams]

    first, _ = cpu_seconds(lambda: small.wait(all_step()))
    computed = small.meter.meter.tokens
    second, _ = cpu_seconds(lambda: small.wait(all_step()))
    again = small.meter.meter.tokens - computed
    expected = roomy.wait(uninterrupted())
    wrong = [
        session
        for session, tokens in zip(sessions, expected, strict=True)
        if session.token_ids != tokens and not _is_tie(roomy, session, tokens)
    ]
    if wrong:
        raise AssertionError(f"{len(wrong)} of {count} sessions went on with another token")
    table = Table(
        f"{shape} float32: {count} idle sessions, KV for {IDLE_KV} of their {count * (PROMPT + 1)} tokens",
        ["round", "CPU s", "tokens computed", "recomputed"],
        notes=[
            f"at most {IDLE_SEQUENCES} sequences hold KV; all went on with the tokens of generations",
            "recomputed: beyond one token a session (first round: beyond its prompt)",
        ],
    )
    table.add(["first", f"{first:.2f}", str(computed), str(computed - count * PROMPT)], tokens=computed)
    table.add(["second", f"{second:.2f}", str(again), str(again - count)], tokens=again)
    small.close()
    roomy.close()
    return table


def _is_tie(bench: Bench, session: Session, tokens: tuple[int, ...]) -> bool:
    """Whether the first token that differs is as likely as the other one."""
    pairs = zip(session.token_ids, tokens, strict=True)
    place = next(place for place, (left, right) in enumerate(pairs) if left != right)
    prefix = (*session.prompt_ids, *tokens[:place])
    (look,) = bench.wait(bench.model.next_tokens([prefix]))
    return abs(float(look.raw_logprobs[session.token_ids[place]] - look.raw_logprobs[tokens[place]])) <= TIE


if __name__ == "__main__":
    sys.exit(main())
