"""What masks cost over the bare mask engine: filling and advancing, starting a matcher, compiling.

Both sides run over the same schemas and instances in one process, in turns, each with a matcher of its
own that has seen nothing; CPU time of this thread. `python -m benchmarks.masks [--quick] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llguidance import LLMatcher

from benchmarks.clock import Spread
from benchmarks.tables import Table
from benchmarks.vocabularies import DATA
from dcmodel.constraints import JsonSchema
from dcmodel.errors import InvalidConstraintError
from dcmodel.mask import mask_words
from dctokenizers import Tokenizer, from_gguf, from_tiktoken

SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
MADE_UP = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
            "size": {"type": "integer", "minimum": 0, "maximum": 500},
            "at": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
        },
        "required": ["name", "tags", "size", "at"],
        "additionalProperties": False,
    },
]
MADE_UP_VALUES = [{"name": "a small box", "tags": ["red", "blue"], "size": 120, "at": "2026-11"}]


@dataclass(frozen=True, slots=True)
class Case:
    schema: Any
    texts: tuple[str, ...]


def load_cases(limit: int) -> list[Case]:
    path = DATA / "jsonschemabench_sample.jsonl"
    if not path.exists():
        return [Case(s, (json.dumps(v),)) for s, v in zip(MADE_UP, MADE_UP_VALUES, strict=True)]
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    cases = []
    for row in rows:
        texts = [json.dumps(t["data"], ensure_ascii=False) for t in row["tests"] if t["valid"]]
        if texts:
            cases.append(Case(row["schema"], tuple(texts[:2])))
    return cases[:limit]


def load_tokenizers() -> dict[str, Tokenizer]:
    folder = DATA / "tokenizers"
    return {
        "32k": from_gguf(folder / "ggml-vocab-llama-spm.gguf"),
        "200k": from_tiktoken(folder / "o200k_base.tiktoken.gz"),
    }


def timed(run: Callable[[], Any]) -> tuple[int, Any]:
    begin = time.thread_time_ns()
    result = run()
    return time.thread_time_ns() - begin, result


def raw_steps(matcher: LLMatcher, token_ids: list[int], row: np.ndarray) -> list[int]:
    address, size = row.ctypes.data, row.nbytes
    times = []
    for token_id in token_ids:
        begin = time.thread_time_ns()
        matcher.unsafe_compute_mask_ptr(address, size)
        matcher.consume_token(token_id)
        times.append(time.thread_time_ns() - begin)
    return times


def our_steps(matcher: Any, token_ids: list[int], row: np.ndarray) -> list[int]:
    times = []
    for token_id in token_ids:
        begin = time.thread_time_ns()
        matcher.fill_mask(row)
        taken = matcher.advance((token_id,))
        times.append(time.thread_time_ns() - begin)
        if taken != 1:
            raise RuntimeError(f"token {token_id} was refused")
    return times


@dataclass(slots=True)
class Turn:
    """Nanoseconds of one pass over all cases."""

    raw_compile: int = 0
    our_compile: int = 0
    raw_start: int = 0
    our_start: int = 0
    raw_steps: list[int] | None = None
    our_steps: list[int] | None = None


def measure(cases: list[Case], tokenizer: Tokenizer, *, warm: bool, ours_first: bool) -> Turn:
    ll_tokenizer = tokenizer.ll_tokenizer()
    row = np.zeros(mask_words(tokenizer.vocab_size), dtype=np.int32)
    turn = Turn(raw_steps=[], our_steps=[])
    for case in cases:
        constraint = JsonSchema(case.schema)
        texts = [tokenizer.encode(text) for text in case.texts]

        def raw(schema: Any = case.schema) -> LLMatcher:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACED)
            return LLMatcher(ll_tokenizer, grammar, log_level=0)

        if ours_first:
            our_time, compiled = timed(lambda rule=constraint: rule.compile(tokenizer))
            raw_time, engine = timed(raw)
        else:
            raw_time, engine = timed(raw)
            our_time, compiled = timed(lambda rule=constraint: rule.compile(tokenizer))
        turn.raw_compile += raw_time
        turn.our_compile += our_time
        for token_ids in texts * (2 if warm else 1):
            raw_time, copy = timed(engine.deep_copy)
            our_time, matcher = timed(compiled.matcher)
            turn.raw_start += raw_time
            turn.our_start += our_time
            raw_times = raw_steps(copy, token_ids, row)
            our_times = our_steps(matcher, token_ids, row)
            if not warm or token_ids is texts[-1]:
                turn.raw_steps += raw_times
                turn.our_steps += our_times
    return turn


def usable(cases: list[Case], tokenizer: Tokenizer) -> list[Case]:
    """Those that both sides compile and accept."""
    found = []
    for case in cases:
        try:
            compiled = JsonSchema(case.schema).compile(tokenizer)
        except InvalidConstraintError:
            continue
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(case.schema), overrides=SPACED)
        engine = LLMatcher(tokenizer.ll_tokenizer(), grammar, log_level=0)
        texts = [text for text in case.texts if _accepted(compiled, engine, tokenizer.encode(text))]
        if texts and not engine.is_error():
            found.append(Case(case.schema, tuple(texts)))
    return found


def _accepted(compiled: Any, engine: LLMatcher, token_ids: list[int]) -> bool:
    ours = compiled.matcher().advance(token_ids) == len(token_ids)
    return ours and engine.deep_copy().try_consume_tokens(token_ids) == len(token_ids)


def table(name: str, tokenizer: Tokenizer, cases: list[Case], turns: int, *, warm: bool) -> Table:
    kind = "second pass over the same text" if warm else "first pass"
    result = Table(
        f"{name} vocabulary, {kind}: {len(cases)} schemas, CPU us, median (min-max) of {turns} turns",
        ("what", "llguidance", "dcmodel", "ratio"),
    )
    measured = [measure(cases, tokenizer, warm=warm, ours_first=bool(turn % 2)) for turn in range(turns)]
    texts = sum(len(case.texts) for case in cases) * (2 if warm else 1)

    def add(what: str, raw: list[float], ours: list[float]) -> None:
        ratios = Spread.of(our / one for one, our in zip(raw, ours, strict=True))
        cells = (what, Spread.of(raw).text(1), Spread.of(ours).text(1), ratios.text())
        result.add(cells, what=what, raw=raw, ours=ours, ratio=ratios.median)

    us = 1e-3
    steps = [(turn.raw_steps or [0], turn.our_steps or [0]) for turn in measured]
    for what, of in (("mean", np.mean), ("median", np.median), ("99 %", lambda x: np.percentile(x, 99))):
        add(
            f"fill and advance, {what}",
            [float(of(raw)) * us for raw, _ in steps],
            [float(of(ours)) * us for _, ours in steps],
        )
    add(
        "start a matcher",
        [turn.raw_start / texts * us for turn in measured],
        [turn.our_start / texts * us for turn in measured],
    )
    add(
        "compile, mean",
        [turn.raw_compile / len(cases) * us for turn in measured],
        [turn.our_compile / len(cases) * us for turn in measured],
    )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 schemas and 3 turns")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    if not (DATA / "tokenizers").exists():
        print(f"Error: {DATA / 'tokenizers'} is not there.", file=sys.stderr)
        return 1
    tables = []
    for name, tokenizer in load_tokenizers().items():
        cases = usable(load_cases(40 if options.quick else 1000), tokenizer)
        for warm in (False, True):
            tables.append(table(name, tokenizer, cases, 3 if options.quick else 7, warm=warm))
            print(tables[-1].text(), flush=True)
    if options.json:
        document = [{"title": item.title, "records": item.records} for item in tables]
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
