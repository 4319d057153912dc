"""GGUF models, in wall time: dcmodel against llama-cpp-python's `Llama` one request after the other, against
its server, and constrained against unconstrained.

    python -m benchmarks.llamacpp --quick
    python -m benchmarks.llamacpp --weights f32 --mode default --only generate --json results.json
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.tables import Table, write_json

if TYPE_CHECKING:
    from benchmarks.llamacpp_setting import Setting

PARTS = ("generate", "score", "constrained")
WEIGHTS = ("f32", "q8_0")
MODES = ("default", "float32")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if importlib.util.find_spec("llama_cpp") is None:
        print("Left out: llama-cpp-python is not installed (pip install 'dcmodel[llamacpp]').")
        return 0
    # Before anything of it is loaded: threads that spin take the cores from the next contender.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tables: list[Table] = []
    for setting in _settings(options):
        for part in options.only or PARTS:
            for table in _run(part, setting, options):
                print(table.text(), flush=True)
                tables.append(table)
                if options.json:
                    write_json(
                        options.json,
                        tables,
                        command=sys.argv[1:],
                        threads=options.threads,
                        llama_cpp_python=version("llama-cpp-python"),
                    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, choices=WEIGHTS)
    parser.add_argument(
        "--mode",
        nargs="+",
        default=MODES,
        choices=MODES,
        help="KV in float16 and flash attention, or neither",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--streams", nargs="+", help='such as "8 32 32-common"; default: all')
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two repeats, f32 weights, default mode")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _settings(options: argparse.Namespace) -> list[Setting]:
    from benchmarks.llamacpp_setting import SHAPE, Setting
    from benchmarks.random_models import gguf

    weights = options.weights[:1] if options.quick else options.weights
    modes = options.mode[:1] if options.quick else options.mode
    return [Setting(gguf(SHAPE, kind), kind, mode, options.threads) for kind in weights for mode in modes]


def _run(part: str, setting: Setting, options: argparse.Namespace) -> list[Table]:
    repeats = 2 if options.quick else options.repeats
    if part == "generate":
        from benchmarks.llamacpp_generate import compare, speed_table, steps_table
        from benchmarks.llamacpp_workloads import parse_streams

        results = compare(setting, parse_streams(options.streams), repeats=repeats)
        return [speed_table(setting, results), steps_table(setting, results)]
    if part == "score":
        from benchmarks.llamacpp_score import score_table

        return [score_table(setting, repeats=2 * repeats)]
    from benchmarks.llamacpp_constrained import constrained_table

    return [constrained_table(setting, [8] if options.quick else [1, 8, 32], repeats=2 * repeats)]


if __name__ == "__main__":
    sys.exit(main())
