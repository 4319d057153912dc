"""What the wire costs: tokens per second of one core through LMTP, from `TokenStep` to frame and back.

The server's half makes columns of a step's tokens and a frame of them; the client's half reads the frame and
makes `TokenStep`s again. No socket, no model. CPU time of one thread, all cases in turns, medians of the
turns. A server's core does the first half: 100,000 tokens per second of it are asked for.
`python -m benchmarks.lmtp_protocol [--quick] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import gc
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.tables import Table, write_json
from dcmodel.types import TokenLogprobs, TokenStep, TopLogprob
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK, Codec
from lmql_backends.lmtp.protocol.columns import columns_of, steps_of
from lmql_backends.lmtp.protocol.messages import ServerMessage, Tokens

TARGET = 100_000
"""Tokens per second of one core in the server's half."""
KNOWN = {"ids and text": None, "log-probabilities": 0, "5 likeliest": 5}
"""What is told of each token: nothing, its log-probabilities, and so many likeliest tokens beside them."""


@dataclass(frozen=True)
class Shape:
    """What shares a frame."""

    name: str
    streams: int
    tokens: int
    """Of each stream."""


SHAPES = (
    Shape("1 stream, 1 token", 1, 1),
    Shape("32 streams, 1 token each", 32, 1),
    Shape("1 stream, 32 tokens", 1, 32),
)


@dataclass(frozen=True)
class Case:
    """One form of frame, with what goes into it."""

    codec: Codec
    shape: Shape
    known: str
    steps: list[list[TokenStep]]

    @property
    def tokens(self) -> int:
        return self.shape.streams * self.shape.tokens

    def encode(self) -> str | bytes:
        """The server's half."""
        messages: list[ServerMessage] = [
            Tokens(id=number, at=100, columns=columns_of(steps)) for number, steps in enumerate(self.steps)
        ]
        return self.codec.encode(messages)

    def decode(self, frame: str | bytes) -> int:
        """The client's half; the number of tokens."""
        found = 0
        for message in self.codec.decode_server(frame).messages:
            if isinstance(message, Tokens):
                found += len(steps_of(message.columns))
        return found


def make_step(rng: random.Random, tops: int | None) -> TokenStep:
    """As float32 logits give them, under a mask that keeps about half."""
    known = None
    if tops is not None:
        mass, masked = -float_32(rng.expovariate(2.0)), -float_32(rng.expovariate(0.5))
        likeliest = tuple(
            TopLogprob(rng.randrange(100_000), -float_32(rng.expovariate(0.5))) for _ in range(tops)
        )
        known = TokenLogprobs(
            raw_logprob=masked + mass,
            masked_logprob=masked,
            log_mass=mass,
            top_raw=likeliest,
            top_masked=likeliest[::-1],
        )
    text = "".join(rng.choices("abcdefghij é", k=rng.randint(1, 7)))
    return TokenStep(token_id=rng.randrange(100_000), text=text, logprobs=known)


def float_32(value: float) -> float:
    """Rounded as a float32 would be, more or less: what counts is the number of digits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * (1 << 24)) / (1 << 24), exponent)


def make_cases() -> list[Case]:
    rng = random.Random(0)
    return [
        Case(
            codec,
            shape,
            known,
            [[make_step(rng, tops) for _ in range(shape.tokens)] for _ in range(shape.streams)],
        )
        for known, tops in KNOWN.items()
        for shape in SHAPES
        for codec in (JSON, MSGPACK)
    ]


def rate(run: Callable[[], object], tokens: int, seconds: float) -> float:
    """Tokens per second of CPU time."""
    loops, spent = 1, 0.0
    while spent < seconds:
        loops *= 2
        begin = time.thread_time()
        for _ in range(loops):
            run()
        spent = time.thread_time() - begin
    return tokens * loops / spent


def measure(cases: Sequence[Case], turns: int, seconds: float) -> dict[int, dict[str, Spread]]:
    """By the case's place: the rates of each half, and of both together."""
    found: dict[int, dict[str, list[float]]] = {place: {} for place in range(len(cases))}
    with tqdm(total=turns * len(cases), desc="lmtp_protocol", unit="case") as bar:
        for turn in range(turns):
            for offset in range(len(cases)):
                place = (turn + offset) % len(cases)
                case = cases[place]
                frame = case.encode()
                assert case.decode(frame) == case.tokens
                gc.collect()
                encoding = rate(case.encode, case.tokens, seconds)
                decoding = rate(lambda case=case, frame=frame: case.decode(frame), case.tokens, seconds)
                both = 1 / (1 / encoding + 1 / decoding)
                for name, value in (("encode", encoding), ("decode", decoding), ("both", both)):
                    found[place].setdefault(name, []).append(value)
                bar.update()
    return {
        place: {name: Spread.of(values) for name, values in rates.items()} for place, rates in found.items()
    }


def table_of(cases: Sequence[Case], rates: dict[int, dict[str, Spread]]) -> Table:
    table = Table(
        "Thousands of tokens per second of one core, from steps to a frame and back",
        ("known of a token", "in a frame", "form", "bytes per token", "encode", "decode", "both", ""),
    )
    for place, case in enumerate(cases):
        frame, of = case.encode(), rates[place]
        together = Spread(of["both"].low / 1e3, of["both"].median / 1e3, of["both"].high / 1e3)
        size = len(frame.encode() if isinstance(frame, str) else frame) / case.tokens
        met = of["encode"].median >= TARGET
        table.add(
            (
                case.known,
                case.shape.name,
                case.codec.name,
                f"{size:.0f}",
                *(f"{of[name].median / 1e3:.0f}" for name in ("encode", "decode")),
                together.text(0),
                "" if met else f"below {TARGET // 1000}",
            ),
            what=f"{case.known}, {case.shape.name}, {case.codec.name}",
            bytes_per_token=size,
            met=met,
            **{f"{name}_tokens_per_second": spread.median for name, spread in of.items()},
        )
    return table


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 short turns")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    cases = make_cases()
    turns, seconds = (3, 0.02) if options.quick else (options.turns, 0.2)
    table = table_of(cases, measure(cases, turns, seconds))
    print(table.text(), flush=True)
    if options.json:
        write_json(options.json, [table], target_tokens_per_second=TARGET)
    return 0 if all(record["met"] for record in table.records) else 1


if __name__ == "__main__":
    sys.exit(main())
