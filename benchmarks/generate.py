"""Speed of generation, in CPU time on one thread: against `model.generate`, against transformers'
continuous batching, constrained against unconstrained, and what planning and masks cost.

    python -m benchmarks.generate --quick
    python -m benchmarks.generate --model-shape 135m --dtype float32 bfloat16 --json results.json
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clock import use_one_thread
from benchmarks.tables import Table, write_json

PARTS = ("peers", "constrained", "masks", "planning")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    use_one_thread()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tables: list[Table] = []
    for part in options.only or PARTS:
        for table in _run(part, options):
            print(table.text(), flush=True)
            tables.append(table)
            if options.json:
                write_json(options.json, tables, command=sys.argv[1:])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model-shape", nargs="+", default=["135m"], choices=["135m", "15m", "embedded"])
    parser.add_argument(
        "--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"]
    )
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--workload", nargs="+", help='such as "equal-8 ragged-32"; default: all')
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two repeats, fewer workloads")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _run(part: str, options: argparse.Namespace) -> list[Table]:
    repeats = 2 if options.quick else options.repeats
    if part == "peers":
        return _peers(options, repeats)
    if part == "constrained":
        return _constrained(options, repeats)
    from benchmarks.overhead import masks_table, planning_table

    if part == "masks":
        return [masks_table(["49k", "200k"], 32, repeats=4 * repeats)]
    return [planning_table([1, 8, 32, 64], repeats=repeats)]


def _peers(options: argparse.Namespace, repeats: int) -> list[Table]:
    from benchmarks.peers import compare, peers_table, steps_table
    from benchmarks.random_models import checkpoint
    from benchmarks.workloads import Workload

    names = ["equal-1", "equal-8", "equal-32", "ragged-8", "ragged-32", "shared-8", "shared-32"]
    names = options.workload or (["equal-1", "equal-8", "ragged-8"] if options.quick else names)
    workloads = [Workload(kind, int(size)) for kind, _, size in (name.partition("-") for name in names)]
    tables = []
    for shape in options.model_shape:
        for dtype in options.dtype:
            results = compare(checkpoint(shape), dtype, workloads, repeats=repeats)
            tables += [peers_table(shape, dtype, results), steps_table(shape, dtype, results)]
    return tables


def _constrained(options: argparse.Namespace, repeats: int) -> list[Table]:
    """On the model asked for, and on one with a vocabulary of 200k."""
    from benchmarks.constrained import compare_constrained, constrained_table
    from benchmarks.random_models import checkpoint

    sizes = [8] if options.quick else [1, 8, 32]
    tables = []
    for name in [*options.model_shape, "135m-200k"]:
        pairs = compare_constrained(name, checkpoint(name), options.dtype[0], sizes, repeats=repeats)
        tables.append(constrained_table(name, options.dtype[0], pairs))
    return tables


if __name__ == "__main__":
    sys.exit(main())
