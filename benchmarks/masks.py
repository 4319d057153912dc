"""What masks cost: the bare engine, dcmodel, xgrammar, outlines-core and lm-format-enforcer in one run.

All go over the same schemas and texts, in turns, schema by schema; CPU time of the calling thread. dcmodel
and the bare engine take several turns, each with everything compiled anew; the others one, over a part of
the schemas, and in processes of their own with limits.
`python -m benchmarks.masks [--quick] [--only VOCABULARY ...] [--engines NAME ...] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.clock import use_one_thread

use_one_thread()

from tqdm import tqdm  # noqa: E402  # the number of threads is read at import

from benchmarks.mask_cases import SAMPLE, VOCABULARIES, Case, is_available, load_cases  # noqa: E402
from benchmarks.mask_engines import OURS, PEERS, RAW, MaskEngine  # noqa: E402
from benchmarks.mask_tables import Results, Turn, compile_table, floor_table, step_table  # noqa: E402
from benchmarks.mask_walks import COMPILE_LIMIT, PASSES, Direct, Guarded, clock  # noqa: E402
from benchmarks.tables import Table, write_json  # noqa: E402
from dcmodel.constraints import ConstraintCache, JsonSchema  # noqa: E402
from dcmodel.errors import InvalidConstraintError  # noqa: E402
from dctokenizers import Tokenizer  # noqa: E402


def measure(
    vocabulary: str, tokenizer: Tokenizer, cases: Sequence[Case], turns: int, peers: Sequence[MaskEngine]
) -> Results:
    """Turn by turn and schema by schema, each engine in its turn; who begins changes."""
    engines = [RAW, OURS, *peers]
    place = list(VOCABULARIES).index(vocabulary)
    encoded = [[tokenizer.encode(text) for text in case.texts] for case in cases]
    total = sum(
        turns * len(cases) if not engine.is_guarded else len(cases[:: engine.every[place]])
        for engine in engines
    )
    results = Results(vocabulary, {}, {})
    with tqdm(total=total, desc=f"masks {vocabulary}", unit="schema") as bar:
        runners = {
            engine.name: (Guarded if engine.is_guarded else Direct)(engine, tokenizer) for engine in engines
        }
        for turn in range(turns):
            present = [engine for engine in engines if not engine.is_guarded or not turn]
            outcomes: dict[str, Turn] = {engine.name: {} for engine in present}
            for number, case in enumerate(cases):
                for step in range(len(present)):
                    engine = present[(step + turn + number) % len(present)]
                    if engine.is_guarded and number % engine.every[place]:
                        continue
                    bar.set_postfix_str(engine.name, refresh=False)
                    outcomes[engine.name][number] = runners[engine.name].run(case.schema, encoded[number])
                    bar.update()
            for name, of_turn in outcomes.items():
                results.turns.setdefault(name, []).append(of_turn)
        for runner in runners.values():
            runner.close()
    for engine in engines:
        results.labels[engine.name] = f"{engine.name} {engine.version}"
    return results


def cached_starts(tokenizer: Tokenizer, cases: Sequence[Case], turns: int) -> list[float]:
    """Microseconds, mean of each turn: an equal constraint's compiled form looked up, and a matcher made."""
    cache = ConstraintCache(len(cases))
    rules = []
    for case in cases:
        try:
            cache.get(rule := JsonSchema(case.schema), tokenizer)
        except InvalidConstraintError:
            continue
        rules.append(rule)
    means = []
    for _ in range(turns):
        begin = clock()
        for rule in rules:
            cache.get(rule, tokenizer).matcher()
        means.append(1e-3 * (clock() - begin) / len(rules))
    return means


def tables_of(vocabulary: str, options: argparse.Namespace, peers: Sequence[MaskEngine]) -> list[Table]:
    tokenizer = VOCABULARIES[vocabulary]()
    tokenizer.ll_tokenizer()
    cases = load_cases(5 if options.quick else 1)
    turns = 2 if options.quick else options.turns
    results = measure(vocabulary, tokenizer, cases, turns, peers)
    return [
        compile_table(results),
        *(step_table(results, name) for name in PASSES),
        floor_table(results, cached_starts(tokenizer, cases, turns)),
    ]


def installed(names: Sequence[str]) -> list[MaskEngine]:
    peers = [engine for engine in PEERS if engine.name in names]
    for engine in peers:
        if engine.version is None:
            print(f"{engine.name} is not installed and left out: pip install {engine.package}")
    return [engine for engine in peers if engine.version is not None]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [engine.name for engine in PEERS]
    parser.add_argument("--quick", action="store_true", help="a fifth of the schemas and 2 turns")
    parser.add_argument("--only", nargs="+", choices=[*VOCABULARIES], default=[*VOCABULARIES])
    parser.add_argument("--engines", nargs="*", choices=names, default=names, help="peers to run")
    parser.add_argument("--turns", type=int, default=5, help="of dcmodel and the bare engine")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    if not is_available():
        print(f"Error: {SAMPLE} is not there.", file=sys.stderr)
        return 1
    peers = installed(options.engines)
    tables: list[Table] = []
    for vocabulary in options.only:
        found = tables_of(vocabulary, options, peers)
        print("\n".join(table.text() for table in found), flush=True)
        tables += found
    if options.json:
        write_json(options.json, tables, compile_limit_seconds=COMPILE_LIMIT)
    missed = [record["what"] for table in tables for record in table.records if not record.get("met", True)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
