"""What it costs to have the model behind a socket or a balancer: the embedded model in this process, in a
child process over a pipe, behind `dcmodel serve`, and behind `dcmodel balance` before that. Wall time, all in
turns.

    python -m benchmarks.lmtp --quick
    python -m benchmarks.lmtp --streams 1 8 32 256 --repeats 7 --json results.json
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from benchmarks.clock import Spread, use_one_thread
from benchmarks.lmtp_children import balance, serve
from benchmarks.tables import Table, write_json
from dcmodel.backend import LoadOptions
from dcmodel.llm import LLM
from dcmodel.model import DcModel
from dcmodel.types import GenerateRequest

HERE = "in process"
PROMPT, NEW = 32, 64
TARGETS = {"websocket": 0.90, "balancer": 0.85}
"""Of the throughput in process, at `TARGET_STREAMS`."""
TARGET_STREAMS = 32
TARGET_MS = 1.0
"""Added per token, one stream, an idle machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    use_one_thread()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    repeats = 3 if options.quick else options.repeats
    streams = (1, 32) if options.quick else options.streams
    tables = [*asyncio.run(compare(streams, repeats))]
    for table in tables:
        print(table.text(), flush=True)
    if options.json:
        write_json(options.json, tables, command=sys.argv[1:])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three repeats of 1 and 32 streams")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


@dataclass(slots=True)
class Run:
    """One turn of one contender."""

    seconds: float
    first: float
    """Until the first token, the median over the streams."""
    outputs: list[tuple[int, ...]]


@dataclass(slots=True)
class Result:
    """One number of streams; a run per repeat and contender."""

    streams: int
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def throughput(self, name: str) -> Spread:
        """Tokens per second."""
        return Spread.of(self.streams * NEW / run.seconds for run in self.runs[name])

    def share(self, name: str) -> Spread:
        """Of the throughput in process, turn by turn."""
        pairs = zip(self.runs[HERE], self.runs[name], strict=True)
        return Spread.of(here.seconds / there.seconds for here, there in pairs)

    def first(self, name: str) -> Spread:
        """Milliseconds to the first token."""
        return Spread.of(1e3 * run.first for run in self.runs[name])

    def added(self, name: str) -> Spread:
        """Milliseconds per step, beyond those in process."""
        pairs = zip(self.runs[HERE], self.runs[name], strict=True)
        return Spread.of(1e3 * (there.seconds - here.seconds) / NEW for here, there in pairs)


async def compare(streams: Sequence[int], repeats: int) -> list[Table]:
    """All contenders are open at the same time, and one of them works."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(serve())
        balancer = stack.enter_context(balance(server.address))
        names = {HERE: None, "process": "process:embedded", "websocket": server.url, "balancer": balancer.url}
        models: dict[str, DcModel] = {}
        for name, address in names.items():
            models[name] = await asyncio.to_thread(_open, address)
            stack.push_async_callback(models[name].aclose)
        results = [Result(count) for count in streams]
        turns = [(result, repeat) for result in results for repeat in range(-1, repeats)]
        for result, repeat in tqdm(turns, unit="turn"):
            await _turn(models, result, repeat)
        for result in results:
            _check(result)
    return [_throughputs(results), _latencies(results)]


def _open(address: str | None) -> DcModel:
    if address is None or address.startswith("process:"):
        options = LoadOptions(device="cpu", dtype="float32")
        return LLM(address, device=options.device, dtype=options.dtype).model
    return LLM(address).model


async def _turn(models: dict[str, DcModel], result: Result, repeat: int) -> None:
    """Each once; who begins changes. The first turn warms up."""
    order = list(models.items())
    first = repeat % len(order)
    for number, (name, model) in enumerate((*order[first:], *order[:first])):
        ids = random.Random(f"{result.streams} {repeat} {number}")
        run = await _run(model, result.streams, ids)
        if repeat >= 0:
            result.runs.setdefault(name, []).append(run)


async def _run(model: DcModel, count: int, ids: random.Random) -> Run:
    requests = [
        GenerateRequest(
            prompt_ids=tuple(ids.randrange(300, model.tokenizer.vocab_size - 2) for _ in range(PROMPT)),
            max_tokens=NEW,
            ignore_eos=True,
        )
        for _ in range(count)
    ]
    begin = time.perf_counter()
    firsts: list[float] = []

    async def read(request: GenerateRequest) -> tuple[int, ...]:
        token_ids = []
        async for step in model.generate(request):
            if not token_ids:
                firsts.append(time.perf_counter() - begin)
            token_ids.append(step.token_id)
        return tuple(token_ids)

    outputs = await asyncio.gather(*map(read, requests))
    seconds = time.perf_counter() - begin
    return Run(seconds, sorted(firsts)[len(firsts) // 2], outputs)


def _check(result: Result) -> None:
    for name, runs in result.runs.items():
        short = [len(output) for run in runs for output in run.outputs if len(output) != NEW]
        if short:
            raise RuntimeError(f"{name} gave {short[0]} tokens instead of {NEW}")


def _throughputs(results: Sequence[Result]) -> Table:
    names = list(results[0].runs)
    table = Table(
        f"embedded model, {PROMPT} + {NEW} tokens: tokens per second, and their share of those in process",
        ["streams", *names, *(f"{name}/{HERE}" for name in names[1:]), "target", "met"],
    )
    for result in results:
        shares = {name: result.share(name) for name in names[1:]}
        is_target = result.streams == TARGET_STREAMS
        met = all(shares[name].median >= target for name, target in TARGETS.items())
        table.add(
            [
                str(result.streams),
                *(f"{result.throughput(name).median:.0f}" for name in names),
                *(share.text() for share in shares.values()),
                " ".join(f"{target:.2f}" for target in TARGETS.values()) if is_target else "",
                ("yes" if met else "no") if is_target else "",
            ],
            streams=result.streams,
            tokens_per_second={name: result.throughput(name).median for name in names},
            share={name: (share.low, share.median, share.high) for name, share in shares.items()},
        )
    table.notes.append("targets: websocket, balancer; medians of neighbours in the same turn (range)")
    return table


def _latencies(results: Sequence[Result]) -> Table:
    names = list(results[0].runs)
    table = Table(
        "ms to the first token (median of the streams), and ms that a step takes longer than in process",
        ["streams", *(f"first, {name}" for name in names), *(f"added, {name}" for name in names[1:]), "met"],
    )
    for result in results:
        added = {name: result.added(name) for name in names[1:]}
        met = added["websocket"].median < TARGET_MS
        table.add(
            [
                str(result.streams),
                *(result.first(name).text(1) for name in names),
                *(item.text() for item in added.values()),
                ("yes" if met else "no") if result.streams == 1 else "",
            ],
            streams=result.streams,
            first_ms={name: result.first(name).median for name in names},
            added_ms={name: item.median for name, item in added.items()},
        )
    table.notes.append(
        f"target: the websocket adds less than {TARGET_MS:.0f} ms to a token of a single stream"
    )
    return table


if __name__ == "__main__":
    sys.exit(main())
