"""How many JSON schemas are fully right: compiled, every valid instance accepted, every invalid one refused.

An instance is the text of `json.dumps`, its keys in their own order. Refusing all instances of a schema
that has no valid one counts as right; a schema that is not compiled does not. Exit code 1 if anything
invalid was accepted by ours.

    python -m benchmarks.json_schema
    python -m benchmarks.json_schema --options spaced/any --rivals llguidance --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.schema_rivals import RIVALS, Contender, OurSchemas, RawLlguidance, Refused, rivals
from benchmarks.schemas import FILES, is_available
from benchmarks.tables import Table, write_json
from benchmarks.vocabularies import DATA
from dctokenizers import Tokenizer, from_tiktoken

OPTIONS = ("spaced/any", "spaced/schema", "compact/any", "bounded/any", "flexible/any")
ANNOTATED = "format"
"""The file of the test suite in which `format` is a remark, as drafts since 2019-09 have it by default."""
COLUMNS = (
    *("contender", "schemas", "right", "right %", "refused", "valid rejected", "INVALID ACCEPTED"),
    *("engine", "grammar", "checked", "seconds"),
)


@dataclass(slots=True)
class Score:
    """What a contender did on a data set."""

    schemas: int = 0
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    valid: int = 0
    lost: int = 0
    invalid: int = 0
    wrong: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not is_available():
        print("Error: the schemas of ../shared/data are not at hand.", file=sys.stderr)
        return 1
    tokenizer = from_tiktoken(DATA / "tokenizers" / f"{options.vocabulary}.tiktoken.gz")
    contenders: list[Contender] = [
        OurSchemas(tokenizer, *option.split("/")) for option in options.options or OPTIONS
    ]
    contenders += rivals(tokenizer, options.rivals)
    tables, wrong = [], 0
    for file in FILES:
        rows = _read(DATA / file)[:: options.every]
        table = Table(f"{file}, {options.vocabulary}", COLUMNS)
        for contender in contenders:
            begin = time.process_time()
            score = _score(contender, rows, tokenizer)
            _add(table, contender.name, score, time.process_time() - begin)
            wrong += score.wrong if isinstance(contender, OurSchemas) else 0
        tables.append(table)
        print(table.text(), flush=True)
    tables.append(_compile_times(tokenizer, options.every))
    print(tables[-1].text(), flush=True)
    if options.json:
        write_json(options.json, tables, command=sys.argv[1:])
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, help="whitespace/key order; all by default")
    parser.add_argument("--vocabulary", default="cl100k_base", help="o200k_base, cl100k_base or r50k_base")
    parser.add_argument("--every", type=int, default=1, help="only each n-th schema")
    parser.add_argument(
        "--rivals", nargs="*", choices=RIVALS, default=RIVALS, help="beside ours, if installed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _score(contender: Contender, rows: list[dict[str, Any]], tokenizer: Tokenizer) -> Score:
    score = Score()
    for row in tqdm(rows, desc=contender.name, leave=False):
        score.schemas += 1
        try:
            way, accepts = contender.compile(row["schema"], formats=row.get("file") != ANNOTATED)
        except Refused as refusal:
            score.refused[str(refusal)] += 1
            continue
        score.ways[way] += 1
        is_right = True
        for test in row["tests"]:
            text = _text(contender, test["data"])
            is_accepted = accepts(tokenizer.encode(text))
            score.valid += test["valid"]
            score.invalid += not test["valid"]
            if is_accepted == test["valid"]:
                continue
            is_right = False
            score.lost += test["valid"]
            if not test["valid"]:
                score.wrong += 1
                score.examples.append(f"accepted by {contender.name}: {_name(row)}: {text[:80]}")
        score.right += is_right
    return score


def _text(contender: Contender, data: Any) -> str:
    separators = (",", ":") if "compact" in contender.name else None
    return json.dumps(data, ensure_ascii=False, separators=separators)


def _name(row: dict[str, Any]) -> str:
    return str(row["id"]) if "id" in row else f"{row['file']}: {row['desc']}"


def _add(table: Table, name: str, score: Score, seconds: float) -> None:
    share = 100 * score.right / score.schemas
    refused = ", ".join(f"{keyword} {count}" for keyword, count in score.refused.most_common(4))
    table.add(
        [
            *(name, str(score.schemas), str(score.right), f"{share:.1f}"),
            *(f"{score.refused.total()} ({refused})" if refused else "0", f"{score.lost}/{score.valid}"),
            f"{score.wrong}/{score.invalid}",
            *(str(score.ways[way]) for way in ("engine", "grammar", "checked")),
            f"{seconds:.1f}",
        ],
        contender=name,
        schemas=score.schemas,
        right=score.right,
        refused=dict(score.refused),
        valid=score.valid,
        valid_rejected=score.lost,
        invalid=score.invalid,
        invalid_accepted=score.wrong,
        ways=dict(score.ways),
        seconds=seconds,
    )
    if name.startswith("dcmodel"):
        table.notes += score.examples


def _compile_times(tokenizer: Tokenizer, every: int) -> Table:
    """CPU time of compiling, on schemas that both compile; the better of three, interleaved."""
    raw = RawLlguidance(tokenizer, lenient=False)
    table = Table(
        "compiling: CPU time beside raw llguidance, strict",
        ["file", "way", "schemas", "ours ms", "raw ms", "ratio median", "ratio of sums"],
    )
    for file in FILES:
        for option in ("spaced/schema", "spaced/any"):
            ours = OurSchemas(tokenizer, *option.split("/"))
            times = [pair for row in _read(DATA / file)[::every] if (pair := _pair(ours, raw, row["schema"]))]
            mine, theirs = zip(*times, strict=True)
            ratios = [one / other for one, other in times]
            median = statistics.median(ratios)
            table.add(
                [
                    *(file, option, str(len(times))),
                    *(f"{1e3 * statistics.median(values):.2f}" for values in (mine, theirs)),
                    *(f"{median:.2f}", f"{sum(mine) / sum(theirs):.2f}"),
                ],
                file=file,
                option=option,
                schemas=len(times),
                ratio_median=median,
                ratio_of_sums=sum(mine) / sum(theirs),
            )
    return table


def _pair(ours: Contender, raw: Contender, schema: Any) -> tuple[float, float] | None:
    best = [float("inf"), float("inf")]
    for _ in range(3):
        for place, contender in enumerate((ours, raw)):
            begin = time.process_time()
            try:
                contender.compile(schema, formats=True)
            except Refused:
                return None
            best[place] = min(best[place], time.process_time() - begin)
    return best[0], best[1]


if __name__ == "__main__":
    sys.exit(main())
