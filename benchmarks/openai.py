"""Constrained text over an API without logits: valid, exact, and for how many requests and tokens.

The planner of the OpenAI adapter over a model of 8-grams with cl100k's vocabulary, beside what others do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.ngram_model import NgramModel
from benchmarks.openai_peers import peers_table
from benchmarks.openai_strategies import (
    Bench,
    Outcome,
    Strategy,
    locally_greedy,
    request_of,
    strategies,
)
from benchmarks.openai_tasks import Task, make_tasks, train
from benchmarks.tables import Table, write_json
from benchmarks.vocabularies import DATA
from dcmodel.constraint import Matcher
from dcmodel.constraints import Choice
from dcmodel.mask import allocate_rows, row_to_ids
from dcmodel.types import GenerateRequest
from dctokenizers import Tokenizer, load
from lmql_backends.openai.planner.grammars import loosened
from lmql_backends.openai.planner.settings import PlannerSettings

VOCABULARY = DATA / "tokenizers" / "cl100k_base.tiktoken.gz"
END_OF_TEXT = 100_257
AT_ONCE = 32
MOST_TOKENS = 1.2
"""Target: completion tokens per token of JSON."""
PARTS = ("strategies", "greedy", "exactness", "sharing", "validity", "peers")
DRIFTS = (0.1, 0.5)
GREEDY_DRIFTS = (0.05, 0.1, 0.2, 0.4, 0.6)
LEAST_SHARING = 6.0
"""Target: calls per HTTP request, 32 at once."""


async def run_all(
    strategy: Strategy, request: GenerateRequest, count: int, *, at_once: int = AT_ONCE
) -> list[Outcome]:
    """So many texts of one prompt."""
    found: list[Outcome] = []
    for begin in range(0, count, at_once):
        some = min(at_once, count - begin)
        found += await asyncio.gather(*(strategy(request) for _ in range(some)))
    return found


def strategy_table(
    tasks: Sequence[Task], tokenizer: Tokenizer, drift: float, count: int, names: tuple[str, ...]
) -> tuple[Table, list[str]]:
    table = Table(
        f"At temperature 1, {drift:.0%} drift of each kind, {count} texts each, {AT_ONCE} at once",
        ["task", "strategy", "valid", "exact", "requests", "http", "billed", "tokens", "billed/token", "s"],
        notes=[
            "requests: per text; http: per text, equal asks of one moment shared; billed: completion tokens."
        ],
    )
    missed: list[str] = []
    for task in tqdm(tasks, desc="tasks", disable=None):
        model, prompt = train(task, tokenizer, drift)
        request = request_of(prompt, task.constraint, 1.0)
        for name, (bench, strategy) in strategies(model, tokenizer, names, seed=7).items():
            begin = time.perf_counter()
            outcomes = asyncio.run(run_all(strategy, request, count))
            seconds = time.perf_counter() - begin
            missed += _add(table, task, name, bench, outcomes, seconds)
    return table, missed


def _add(
    table: Table, task: Task, name: str, bench: Bench, outcomes: Sequence[Outcome], seconds: float
) -> list[str]:
    count = len(outcomes)
    valid = sum(item.is_valid for item in outcomes)
    exact = sum(item.is_exact for item in outcomes)
    requests = sum(item.cost.requests for item in outcomes) / count
    billed = sum(item.cost.completion_tokens for item in outcomes) / count
    tokens = sum(len(item.token_ids) for item in outcomes) / count
    http = bench.api.http_requests / count
    table.add(
        [
            *(task.name, name, f"{valid / count:.1%}", f"{exact / count:.0%}", f"{requests:.2f}"),
            *(f"{http:.2f}", f"{billed:.1f}", f"{tokens:.1f}", f"{billed / max(tokens, 1e-9):.2f}"),
            f"{seconds:.1f}",
        ],
        task=task.name,
        strategy=name,
        valid=valid / count,
        exact=exact / count,
        requests=requests,
        http_requests=http,
        billed=billed,
        tokens=tokens,
    )
    return _misses(task, name, valid == count, requests, billed / max(tokens, 1e-9))


def _misses(task: Task, name: str, is_valid: bool, requests: float, ratio: float) -> list[str]:
    """Targets of the planner that were not met."""
    where = f"{task.name}, {name}"
    missed = []
    if name.startswith("planner") and not is_valid:
        missed.append(f"{where}: invalid texts")
    if name == "planner" and requests > task.most_requests:
        missed.append(f"{where}: {requests:.2f} requests, not {task.most_requests}")
    if name == "planner, own grammar" and requests != 1.0 and "compact" not in task.name:
        missed.append(f"{where}: {requests:.2f} requests, not 1")
    if name == "planner" and task.is_json and "compact" not in task.name and ratio > MOST_TOKENS:
        missed.append(f"{where}: {ratio:.2f} tokens billed for one")
    return missed


def greedy_table(
    tasks: Sequence[Task], tokenizer: Tokenizer, drifts: Sequence[float]
) -> tuple[Table, list[str]]:
    """Temperature 0: the planner's tokens are those of local masks."""
    names = ("planner", "planner, streams", "planner, none shown", "as LMQL does")
    table = Table("Equal to local masking at temperature 0", ["task", *names], notes=["one model per drift"])
    missed = []
    for task in tasks:
        same: Counter[str] = Counter()
        for drift in drifts:
            model, prompt = train(task, tokenizer, drift)
            plain = request_of(prompt, task.constraint, 0.0)
            for name, (bench, strategy) in strategies(model, tokenizer, names, seed=1).items():
                request = plain if name == "as LMQL does" else loosened(plain)
                expected = locally_greedy(model, tokenizer, request, bench.matcher(request))
                outcome = asyncio.run(strategy(plain))
                same[name] += _without_end(outcome.token_ids, tokenizer) == _without_end(expected, tokenizer)
        table.add([task.name, *(f"{same[name]}/{len(drifts)}" for name in names)], task=task.name, **same)
        missed += [
            f"{task.name}: {name} differs from local masking at temperature 0"
            for name in names[:3]
            if same[name] != len(drifts)
        ]
    return table, missed


def _without_end(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    return [token_id for token_id in ids if token_id not in tokenizer.eos_token_ids]


def exactness_table(
    tasks: Sequence[Task], tokenizer: Tokenizer, drift: float, draws: int
) -> tuple[Table, list[str]]:
    """Temperature 1: how far what was drawn is from the distribution under local masks."""
    table = Table(
        f"Total variation from local masking at temperature 1, {draws} draws",
        ["task", "outputs", "planner", "noise (99.9 %)"],
    )
    missed = []
    for task in tasks:
        if not isinstance(task.constraint, Choice):
            continue
        model, prompt = train(task, tokenizer, drift)
        request = request_of(prompt, task.constraint, 1.0)
        bench, strategy = strategies(model, tokenizer, ("planner",), seed=3)["planner"]
        expected = whole_distribution(model, tokenizer, request, bench.matcher(request))
        # Under masks most choices are one request: the free road is what has to be shown.
        del strategy
        free = Bench(model, tokenizer, seed=3).planner(PlannerSettings(masks_choices=False))
        counts = Counter(item.token_ids for item in asyncio.run(run_all(free, request, draws)))
        keys = counts.keys() | expected.keys()
        found = 0.5 * sum(abs(counts[key] / draws - expected.get(key, 0.0)) for key in keys)
        limit = noise(list(expected.values()), draws)
        table.add(
            [task.name, str(len(expected)), f"{found:.4f}", f"{limit:.4f}"],
            task=task.name,
            found=found,
            noise=limit,
        )
        if found > limit:
            missed.append(f"{task.name}: {found:.4f} from local masking, noise is {limit:.4f}")
    return table, missed


def whole_distribution(
    model: NgramModel, tokenizer: Tokenizer, request: GenerateRequest, matcher: Matcher, least: float = 1e-7
) -> dict[tuple[int, ...], float]:
    """Outputs under local masks with their probabilities; forced tokens are appended, others drawn."""
    found: dict[tuple[int, ...], float] = {}

    def grow(output: list[int], state: Matcher, share: float) -> None:
        while not state.is_finished and (forced := state.forced()):
            output = [*output, *forced]
            state.advance(forced)
        if state.is_finished:
            found[tuple(output)] = share
            return
        row = allocate_rows(1, tokenizer.vocab_size)[0]
        state.fill_mask(row)
        ids = row_to_ids(row, tokenizer.vocab_size)
        weights = model.dense((*request.prompt_ids, *output))[ids]
        weights = weights / weights.sum() * share
        for place in np.flatnonzero(weights > least).tolist():
            branch = state.fork()
            branch.advance([int(ids[place])])
            grow([*output, int(ids[place])], branch, float(weights[place]))

    grow([], matcher, 1.0)
    return found


def noise(shares: Sequence[float], draws: int) -> float:
    """The total variation of so many draws from the very distribution, at most in 99.9 % of all cases."""
    values = np.array(shares) / np.sum(shares)
    counts = np.random.default_rng(1).multinomial(draws, values, size=1000) / draws
    return float(np.quantile(0.5 * np.abs(counts - values).sum(axis=1), 0.999))


def sharing_table(tasks: Sequence[Task], tokenizer: Tokenizer, drift: float) -> tuple[Table, list[str]]:
    """32 texts at once: how many calls share an HTTP request."""
    table = Table(f"{AT_ONCE} texts at once", ["task", "calls", "HTTP requests", "calls/request"])
    missed = []
    for task in tasks:
        if not task.is_json or "compact" in task.name:
            continue
        model, prompt = train(task, tokenizer, drift)
        request = request_of(prompt, task.constraint, 1.0)
        bench, strategy = strategies(model, tokenizer, ("planner",), seed=5)["planner"]
        outcomes = asyncio.run(run_all(strategy, request, AT_ONCE))
        calls, http = sum(item.cost.requests for item in outcomes), bench.api.http_requests
        table.add(
            [task.name, str(calls), str(http), f"{calls / http:.1f}"], task=task.name, calls=calls, http=http
        )
        if calls < LEAST_SHARING * http:
            missed.append(f"{task.name}: {calls} calls in {http} HTTP requests")
    return table, missed


def validity_table(tasks: Sequence[Task], tokenizer: Tokenizer, objects: int) -> tuple[Table, list[str]]:
    """Many texts, by every road: each is valid, or it came to the end of its budget, and says so."""
    names = ("planner", "planner, streams", "planner, 5 shown", "planner, none shown", "planner, own grammar")
    share = -(-objects // (len(tasks) * len(names) * len(DRIFTS)))
    table = Table(
        f"{objects} texts at temperature 1, a drift of {' or '.join(f'{drift:.0%}' for drift in DRIFTS)}",
        ["endpoint", "texts", "invalid", "cut at max_tokens", "not exact"],
    )
    missed = []
    for name in names:
        found: list[Outcome] = []
        for task, drift in tqdm(list(itertools.product(tasks, DRIFTS)), desc=name, disable=None):
            model, prompt = train(task, tokenizer, drift)
            strategy = strategies(model, tokenizer, (name,), seed=11)[name][1]
            found += asyncio.run(run_all(strategy, request_of(prompt, task.constraint, 1.0), share))
        cut = sum(item.is_cut and not item.is_valid for item in found)
        invalid = sum(not item.is_valid and not item.is_cut for item in found)
        inexact = sum(not item.is_exact for item in found)
        table.add(
            [name, str(len(found)), str(invalid), str(cut), str(inexact)],
            endpoint=name,
            texts=len(found),
            invalid=invalid,
            cut=cut,
            inexact=inexact,
        )
        if invalid:
            missed.append(f"{name}: {invalid} of {len(found)} texts are invalid")
    return table, missed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openai", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="texts per task and strategy")
    parser.add_argument("--drift", type=float, default=0.1, help="share of each kind of deviation")
    parser.add_argument("--draws", type=int, default=5_000, help="draws of the test of exactness")
    parser.add_argument("--objects", type=int, default=1_000, help="texts of the test of validity")
    parser.add_argument("--peers", type=int, default=8, help="texts at once beside LMQL and the SDK")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of these")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="only these tables")
    parser.add_argument("--tasks", nargs="*", default=None, help="only these tasks")
    parser.add_argument("--strategies", nargs="*", default=(), help="only these strategies")
    parser.add_argument("--vocabulary", type=Path, default=VOCABULARY, help="a .tiktoken file")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args(arguments)
    if not options.vocabulary.exists():
        print(f"{options.vocabulary} is missing; name a .tiktoken file with --vocabulary.")
        return 0
    tokenizer = load(options.vocabulary)
    tokenizer = tokenizer.with_eos([END_OF_TEXT] if tokenizer.vocab_size > END_OF_TEXT else [0])
    tasks = [task for task in make_tasks() if options.tasks is None or task.name in options.tasks]
    names = tuple(options.strategies)
    makers: dict[str, Callable[[], tuple[Table, list[str]]]] = {
        "strategies": lambda: strategy_table(tasks, tokenizer, options.drift, options.count, names),
        "greedy": lambda: greedy_table(tasks, tokenizer, GREEDY_DRIFTS),
        "exactness": lambda: exactness_table(tasks, tokenizer, options.drift, options.draws),
        "sharing": lambda: sharing_table(tasks, tokenizer, options.drift),
        "validity": lambda: validity_table(tasks, tokenizer, options.objects),
        "peers": lambda: (peers_table(tokenizer, options.vocabulary, options.peers, options.rounds), []),
    }
    tables, missed = [], list[str]()
    for part in options.parts:
        table, some = makers[part]()
        print(table.text(), flush=True)
        tables.append(table)
        missed += some
    for line in missed:
        print(f"missed: {line}")
    if options.json is not None:
        write_json(options.json, tables, missed=missed)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
