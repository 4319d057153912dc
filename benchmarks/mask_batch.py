"""Filling the masks of a batch: a loop over copies of the raw engine, and `MaskFiller`.

The rows stand at different places of a text, under one grammar or each under its own. In each turn every
matcher moves a token on and back, so that no mask is known from before. CPU time of the process, which is
what threads cost, and the waits of threads for one another (voluntary context switches); wall time
says little on shared cores. `python -m benchmarks.mask_batch [--quick]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.clock import Spread, use_one_thread

use_one_thread()

from tqdm import tqdm  # noqa: E402

from benchmarks.constrained import SCHEMA  # noqa: E402
from benchmarks.mask_cases import SAMPLE, VOCABULARIES, is_available  # noqa: E402
from benchmarks.overhead import RECORD  # noqa: E402
from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.constraint import Matcher  # noqa: E402
from dcmodel.constraints import JsonSchema  # noqa: E402
from dcmodel.constraints.llg import LlgMatcher  # noqa: E402
from dcmodel.mask import allocate_rows, row_to_ids  # noqa: E402
from dcmodel.scheduling.mask_filler import MaskFiller  # noqa: E402
from dctokenizers import Tokenizer  # noqa: E402

ROWS = 32
Fill = Callable[[], object]


def make_matchers(tokenizer: Tokenizer, *, is_shared: bool) -> list[LlgMatcher]:
    token_ids = tokenizer.encode(json.dumps(RECORD))
    shared = JsonSchema(SCHEMA).compile(tokenizer)
    matchers = []
    for row in range(ROWS):
        own = shared if is_shared else JsonSchema({**SCHEMA, "title": str(row)}).compile(tokenizer)
        matcher = own.matcher()
        begin = token_ids[: row * len(token_ids) // ROWS]
        if not isinstance(matcher, LlgMatcher) or matcher.advance(begin) != len(begin):
            raise RuntimeError("the schema refuses its own example")
        matchers.append(matcher)
    return matchers


def make_fills(matchers: Sequence[LlgMatcher], filler: MaskFiller) -> dict[str, Fill]:
    filler.start(matchers)
    rows, _ = filler.finish(ROWS)
    size, base = rows[0].nbytes, rows.ctypes.data
    # The filler's own: a matcher is quicker where it is given the same row again.
    views = filler._views
    halves = [range(0, ROWS, 2), range(1, ROWS, 2)]
    pool = ThreadPoolExecutor(2)

    def raw() -> None:
        for row, matcher in enumerate(matchers):
            matcher._engine.unsafe_compute_mask_ptr(base + row * size, size)

    def loop(part: Sequence[int] = range(ROWS)) -> None:
        for row in part:
            matchers[row].fill_mask(views[row])

    def by_filler() -> None:
        filler.start(matchers)
        filler.finish(ROWS)

    return {
        "raw loop": raw,
        "fill_mask loop": loop,
        "MaskFiller": by_filler,
        "alternate rows on 2 threads": lambda: list(pool.map(loop, halves)),
    }


def stir(matchers: Sequence[Matcher], tokens: Sequence[int | None]) -> None:
    for matcher, token_id in zip(matchers, tokens, strict=True):
        if token_id is not None and matcher.advance([token_id]):
            matcher.rollback(1)


def next_tokens(matchers: Sequence[Matcher], tokenizer: Tokenizer) -> list[int | None]:
    row = allocate_rows(1, tokenizer.vocab_size)[0]
    found: list[int | None] = []
    for matcher in matchers:
        matcher.fill_mask(row)
        ids = [token_id for token_id in row_to_ids(row, tokenizer.vocab_size)[:2].tolist()]
        found.append(next((token_id for token_id in ids if token_id not in tokenizer.eos_token_ids), None))
    return found


def add_rows(table: Table, name: str, tokenizer: Tokenizer, turns: int, *, is_shared: bool) -> None:
    matchers = make_matchers(tokenizer, is_shared=is_shared)
    tokens = next_tokens(matchers, tokenizer)
    filler = MaskFiller(tokenizer.vocab_size)
    fills = make_fills(matchers, filler)
    cpu: dict[str, list[float]] = {label: [] for label in fills}
    wall: dict[str, list[float]] = {label: [] for label in fills}
    waits: dict[str, int] = dict.fromkeys(fills, 0)
    names = list(fills)
    for turn in tqdm(range(turns + 2), desc=f"batch {name} {'one' if is_shared else 'own'}", unit="turn"):
        for step in range(len(names)):
            label = names[(turn + step) % len(names)]
            stir(matchers, tokens)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
            begin, began = time.process_time_ns(), time.perf_counter_ns()
            fills[label]()
            if turn > 1:
                cpu[label].append(1e-3 * (time.process_time_ns() - begin) / ROWS)
                wall[label].append(1e-3 * (time.perf_counter_ns() - began) / ROWS)
                waits[label] += resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    filler.close()
    raw = Spread.of(cpu["raw loop"]).median
    for label in fills:
        spent = Spread.of(cpu[label]).median
        table.add(
            [
                name,
                "one" if is_shared else "own",
                label,
                f"{spent:.1f}",
                f"{min(cpu[label]):.1f}",
                f"{Spread.of(wall[label]).median:.1f}",
                f"{spent / raw:.2f}",
                f"{waits[label] / turns:.1f}",
            ],
            vocabulary=name,
            shared=is_shared,
            how=label,
            cpu=cpu[label],
            wall=wall[label],
            waits=waits[label] / turns,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="30 turns instead of 200")
    parser.add_argument("--only", nargs="+", choices=[*VOCABULARIES], default=[*VOCABULARIES])
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    if not is_available():
        print(f"Error: {SAMPLE} is not there.", file=sys.stderr)
        return 1
    turns = 30 if options.quick else 200
    table = Table(
        f"masks of {ROWS} rows, us for each row, median of {turns} turns",
        ("vocabulary", "grammar", "how", "CPU", "least", "wall", "CPU over raw", "waits a turn"),
        notes=["own: each row has a grammar of its own, compiled from the same schema with another title"],
    )
    for name in options.only:
        tokenizer = VOCABULARIES[name]()
        for is_shared in (True, False):
            add_rows(table, name, tokenizer, turns, is_shared=is_shared)
    print(table.text())
    if options.json:
        write_json(options.json, [table])
    return 0


if __name__ == "__main__":
    sys.exit(main())
