"""10,000 constrained generations at temperature 1.5: none invalid, none that hangs, and those that ran
into max_tokens say so. Exit code 1 if that does not hold.

    python -m benchmarks.valid
    python -m benchmarks.valid --count 500 --model random --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clock import use_one_thread
from benchmarks.random_models import EMBEDDED, checkpoint
from benchmarks.schemas import is_available, load_cases
from benchmarks.tables import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not is_available():
        print("Error: the schemas of ../shared/data are not at hand.", file=sys.stderr)
        return 1
    use_one_thread()
    from benchmarks.contenders import load_engine
    from benchmarks.generations import Plan, run
    from benchmarks.verdicts import verdict_tables

    folder = _folder(options.model)
    print(f"{options.count} generations with {folder}, seed {options.seed}", flush=True)
    plan = Plan(
        count=options.count,
        max_tokens=options.max_tokens,
        seed=options.seed,
        concurrency=options.concurrency,
        hang_seconds=options.hang_seconds,
    )
    begin = time.monotonic()
    verdict = asyncio.run(run(load_engine(folder, "float32"), load_cases(), plan))
    verdict.seconds = time.monotonic() - begin
    tables = verdict_tables(verdict)
    for table in tables:
        print(table.text(), flush=True)
    if options.json:
        write_json(options.json, tables, command=sys.argv[1:])
    if verdict.is_stuck:  # a thread that never returns would keep the process
        os._exit(1)
    return 0 if verdict.holds else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--hang-seconds", type=float, default=120.0, help="longest that a request may take")
    parser.add_argument("--model", default=EMBEDDED, help="embedded, random, or a folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _folder(model: str) -> Path:
    if model == "random":
        return checkpoint("49k")
    return checkpoint(EMBEDDED) if model == EMBEDDED else Path(model)


if __name__ == "__main__":
    sys.exit(main())
