"""What a server's connection costs: CPU time per token from a sequence that has grown to the finished frame.

A `ServerConnection` over a model whose sequences are advanced in the same thread, one token of each stream
per turn of the loop; the time of advancing them does not count. So the figure holds the wake-ups, reading the
stream, texts, columns and encoding; no engine, no socket. CPU time of the thread per turn, medians of all
turns of a repeat; median and range of the repeats, all cases in turns.
`python -m benchmarks.lmtp_connection [--quick] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.tables import Table, write_json
from dcmodel import LLM
from dcmodel.local.base import SequenceModel
from dcmodel.scheduling.runner import SequenceRunner
from dcmodel.scheduling.sequence import Status
from dcmodel.types import ModelInfo, ScoreRequest, ScoreResult
from dctokenizers import Tokenizer
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK, Codec
from lmql_backends.lmtp.protocol.messages import Generate, Hello, Request, Tokens
from lmql_backends.lmtp.server.connection import ServerConnection
from lmql_backends.lmtp.server.contracts import Models, ServedModel

TARGET = 20.0
"""Microseconds per token at 32 streams, at most."""
CONTEXT = 1 << 20
RECORD = (-1.2345678806304932, -1.2345678806304932, 0.0, None, None)


@dataclass(frozen=True)
class Case:
    streams: int
    codec: Codec
    logprobs: bool
    turns: int


CASES = tuple(
    Case(streams, codec, logprobs, turns)
    for streams, turns in ((1, 2000), (32, 300), (256, 60))
    for codec in (JSON, MSGPACK)
    for logprobs in (True, False)
)


class Typist(SequenceRunner):
    """Gives every sequence a token when it is told to."""

    def __init__(self, vocab_size: int, streams: int) -> None:
        self.live = []
        self.has_all = asyncio.Event()
        self._streams = streams
        self._vocab_size = vocab_size

    def submit(self, sequences) -> None:
        self.live.extend(sequences)
        if len(self.live) == self._streams:
            self.has_all.set()

    def cancel(self, sequence) -> None:
        sequence.cancelled = True

    def close(self) -> None:
        """Nothing to close."""

    def advance(self) -> None:
        for sequence in self.live:
            token_id = 300 + (7 * len(sequence.token_ids)) % (self._vocab_size - 300)
            sequence.commit(token_id, RECORD if sequence.want_logprobs else None)
            if sequence.is_complete:
                sequence.status = Status.FINISHED

    def tell(self) -> None:
        for sequence in self.live:
            sequence.notify()
        self.live = [sequence for sequence in self.live if sequence.status is not Status.FINISHED]


class TypedModel(SequenceModel):
    """Generates what the typist types."""

    def __init__(self, tokenizer: Tokenizer, streams: int) -> None:
        size = tokenizer.vocab_size
        info = ModelInfo(name="typed", backend="typist", vocab_size=size, max_positions=CONTEXT)
        self.typist = Typist(size, streams)
        super().__init__(info, tokenizer, self.typist, vocab_size=size, max_positions=CONTEXT)

    async def score(self, request: ScoreRequest) -> ScoreResult:
        raise NotImplementedError

    async def aclose(self) -> None:
        self._compilers.shutdown()


class OneModel(Models):
    def __init__(self, model: TypedModel) -> None:
        self._served = ServedModel(name="typed", model=model, llm=LLM.from_model(model))

    def names(self) -> list[str]:
        return ["typed"]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[ServedModel]:
        yield self._served


async def microseconds(tokenizer: Tokenizer, case: Case) -> float:
    """Of one token; the median of the turns."""
    model = TypedModel(tokenizer, case.streams)
    sent = 0

    def send(messages) -> None:
        nonlocal sent
        case.codec.encode(messages)
        sent += sum(len(message.columns.token_ids) for message in messages if isinstance(message, Tokens))

    connection = ServerConnection(OneModel(model), send)
    request = Request(prompt=[300], max_tokens=case.turns, ignore_eos=True, logprobs=case.logprobs)
    connection.receive([Hello(versions=[2]), *(Generate(id=i, request=request) for i in range(case.streams))])
    await model.typist.has_all.wait()
    gc.collect()
    turns = []
    while model.typist.live:
        model.typist.advance()
        begin = time.thread_time()
        model.typist.tell()
        await asyncio.sleep(0)  # the frame leaves in this turn
        turns.append(time.thread_time() - begin)
    await connection.wait_idle()
    await connection.aclose()
    await model.aclose()
    assert sent == case.streams * case.turns
    return statistics.median(turns) / case.streams * 1e6


def measure(tokenizer: Tokenizer, repeats: int) -> list[Spread]:
    found: list[list[float]] = [[] for _ in CASES]
    with tqdm(total=repeats * len(CASES), desc="lmtp_connection", unit="case") as bar:
        for repeat in range(repeats):
            for offset in range(len(CASES)):
                place = (repeat + offset) % len(CASES)
                found[place].append(asyncio.run(microseconds(tokenizer, CASES[place])))
                bar.update()
    return list(map(Spread.of, found))


def table_of(spreads: list[Spread]) -> Table:
    table = Table(
        "Microseconds of one core per token, from the sequence to the frame",
        ("streams", "form", "known of a token", "us per token", "tokens per second", ""),
    )
    for case, spread in zip(CASES, spreads, strict=True):
        known = "log-probabilities" if case.logprobs else "ids and text"
        met = case.streams < 32 or spread.median <= TARGET
        table.add(
            (
                str(case.streams),
                case.codec.name,
                known,
                spread.text(1),
                f"{1e6 / spread.median:,.0f}",
                "" if met else f"above {TARGET:.0f}",
            ),
            what=f"{case.streams} streams, {case.codec.name}, {known}",
            microseconds=spread.median,
            met=met,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 repeats")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    with LLM() as llm:
        spreads = measure(llm.tokenizer, 3 if options.quick else options.repeats)
    table = table_of(spreads)
    print(table.text(), flush=True)
    if options.json:
        write_json(options.json, [table], target_microseconds=TARGET)
    return 0 if all(record["met"] for record in table.records) else 1


if __name__ == "__main__":
    sys.exit(main())
