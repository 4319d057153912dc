"""What the numpy sampler takes per step, beside its plain form and the least that any could take.

The floor is one argmax of each row, which reads the logits once. CPU time of the calling thread, one thread,
all in turns, medians. `python -m benchmarks.sampler [--quick]`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.clock import Spread, use_one_thread

use_one_thread()
# The plain form is the tests' reference.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import numpy as np  # noqa: E402  # the number of threads is read at import
from fakes.plain_sampler import PlainLogitRows  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.mask_apply import draw_masks  # noqa: E402
from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.logits import LogitRows, SamplePlan  # noqa: E402
from dcmodel.sampler import NumpyLogitRows  # noqa: E402

SIZES = {"32k": 32_000, "128k": 128_256}
ROWS = (1, 8, 32)
TARGETS, TARGET_ROWS = 50, 30
GREEDY_LIMIT_MS = 0.5
LEAST_SECONDS = 2e-2
EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Way:
    """A way of drawing."""

    name: str
    share: float = 1.0
    """How much of the vocabulary a mask allows; 1 = no mask."""
    top_logprobs: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    is_flat: bool = False
    """Whether logits are normal (sd 3), with thousands of tokens in the nucleus, and not as in language."""
    limit_ms: float | None = None
    """For 32 rows of 32k."""


WAYS = (
    Way("greedy", limit_ms=GREEDY_LIMIT_MS),
    Way("greedy, 2 % allowed", share=0.02),
    Way("greedy, 50 % allowed", share=0.5),
    Way("greedy, 98 % allowed", share=0.98),
    Way("greedy, 5 log-probabilities", top_logprobs=5),
    Way("the same, 98 % allowed", share=0.98, top_logprobs=5),
    Way("temperature 0.8", temperature=0.8),
    Way("temperature 0.8, top-p 0.95", temperature=0.8, top_p=0.95),
    Way("the same, flat logits", temperature=0.8, top_p=0.95, is_flat=True),
)


def plan_of(way: Way, rows: int, vocab_size: int, rng: np.random.Generator) -> SamplePlan:
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return SamplePlan(
        rows=np.arange(rows, dtype=np.int64),
        bitmask=draw_masks(vocab_size, min(way.share, 0.999), rows, rng),
        is_masked=np.full(rows, way.share < 1),
        temperature=np.full(rows, way.temperature, np.float32),
        top_k=np.zeros(rows, np.int64),
        top_p=np.full(rows, way.top_p, np.float32),
        min_p=np.zeros(rows, np.float32),
        uniform=rng.random(rows),
        repetition=nothing,
        bias=nothing,
        want_logprobs=way.top_logprobs > 0,
        top_logprobs=way.top_logprobs,
    )


def draw_logits(rows: int, vocab_size: int, *, is_flat: bool, rng: np.random.Generator) -> np.ndarray:
    """[rows, vocab_size] normal, or by Zipf's law with some noise."""
    noise = rng.normal(0, 3.0 if is_flat else 0.5, (rows, vocab_size))
    if not is_flat:
        ranks = rng.permuted(np.tile(np.arange(1, vocab_size + 1), (rows, 1)), axis=1)
        noise -= 1.3 * np.log(ranks)
    return noise.astype(np.float32)


def milliseconds(run: Callable[[], object]) -> float:
    count, begin = 0, time.thread_time()
    while (passed := time.thread_time() - begin) < LEAST_SECONDS:
        run()
        count += 1
    return 1e3 * passed / count


def measure(
    logits: np.ndarray, ask: Callable[[LogitRows], object], floor_rows: int, times: dict[str, list[float]]
) -> None:
    """One turn. Nothing is known of the rows beforehand: each call has an object of its own."""
    found = {
        "ours": milliseconds(lambda: ask(NumpyLogitRows(logits))),
        "plain": milliseconds(lambda: ask(PlainLogitRows(logits))),
        "floor": milliseconds(lambda: [row.argmax() for row in logits[:floor_rows]]),
    }
    for name, value in found.items():
        times.setdefault(name, []).append(value)


def check(way: Way, logits: np.ndarray, plan: SamplePlan) -> None:
    """Both forms draw the same tokens, or `uniform` is as near an edge as float32 can tell."""
    ours = NumpyLogitRows(logits).sample(plan).token_ids
    if (ours == PlainLogitRows(logits).sample(plan).token_ids).all():
        return
    low, high = (
        PlainLogitRows(logits).sample(replace(plan, uniform=np.clip(plan.uniform + shift, 0, 1 - EDGE)))
        for shift in (-EDGE, EDGE)
    )
    if ((ours < low.token_ids) | (ours > high.token_ids)).any():
        raise SystemExit(f"{way.name}: {ours} is not what the plain form draws")


def sample_times(way: Way, rows: int, vocab_size: int, turns: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(vocab_size + rows)
    times: dict[str, list[float]] = {}
    for _ in range(turns):
        logits = draw_logits(rows, vocab_size, is_flat=way.is_flat, rng=rng)
        plan = plan_of(way, rows, vocab_size, rng)
        check(way, logits, plan)
        measure(logits, lambda at, plan=plan: at.sample(plan), rows, times)
    return times


def score_times(vocab_size: int, turns: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(vocab_size)
    times: dict[str, list[float]] = {}
    for _ in range(turns):
        logits = draw_logits(TARGET_ROWS, vocab_size, is_flat=False, rng=rng)
        rows = np.concatenate([np.arange(TARGET_ROWS), rng.integers(0, TARGET_ROWS, TARGETS - TARGET_ROWS)])
        targets = rng.integers(0, vocab_size, TARGETS)
        measure(logits, lambda at, rows=rows, targets=targets: at.score(rows, targets, 0), TARGET_ROWS, times)
    return times


def add(table: Table, name: str, rows: int, times: dict[str, list[float]], limit: float | None) -> None:
    ours, plain, floor = (Spread.of(times[label]) for label in ("ours", "plain", "floor"))
    gain = Spread.of(b / a for a, b in zip(times["ours"], times["plain"], strict=True))
    over = Spread.of(a / b for a, b in zip(times["ours"], times["floor"], strict=True))
    is_met = limit is None or ours.median <= limit
    table.add(
        [
            name,
            str(rows),
            ours.text(3),
            f"{plain.median:.2f}",
            f"{gain.median:.0f}",
            f"{floor.median:.3f}",
            f"{over.median:.1f}",
            "" if limit is None else f"{limit} {'yes' if is_met else 'NO'}",
        ],
        way=name,
        rows=rows,
        times=times,
        limit_ms=limit,
        met=is_met,
    )


def table_of(name: str, turns: int, only_rows: list[int]) -> Table:
    table = Table(
        f"{name} tokens: ms per step, median of {turns} (range)",
        ("", "rows", "ours", "plain", "plain / ours", "floor", "ours / floor", "limit"),
        notes=["floor: one argmax of each row; for a score, of each row that has targets"],
    )
    cases = [(way, rows) for way in WAYS for rows in only_rows]
    for way, rows in tqdm(cases, desc=f"sampler {name}", unit="case"):
        is_limited = name == "32k" and rows == 32
        times = sample_times(way, rows, SIZES[name], turns)
        add(table, way.name, rows, times, way.limit_ms if is_limited else None)
    add(table, f"score of {TARGETS} targets", TARGET_ROWS, score_times(SIZES[name], turns), None)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 turns instead of 15")
    parser.add_argument("--only", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--rows", nargs="+", type=int, default=[*ROWS])
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    tables = []
    for name in options.only:
        tables.append(table_of(name, 5 if options.quick else 15, options.rows))
        print(tables[-1].text(), flush=True)
    if options.json:
        write_json(options.json, tables)
    return 0 if all(record["met"] for table in tables for record in table.records) else 1


if __name__ == "__main__":
    sys.exit(main())
