"""Speed of scoring many continuations of one prompt of 200 tokens, in CPU time on one thread: dcmodel
against lm-evaluation-harness, a padded batch, a shared KV, and the bare forward.

    python -m benchmarks.score --quick
    python -m benchmarks.score --shape 135m 15m --dtype float32 bfloat16 --json results.json
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from benchmarks.clock import Spread, cpu_seconds, use_one_thread
from benchmarks.score_workloads import KINDS, ScoreTask, ScoreWorkload
from benchmarks.tables import Table, write_json

if TYPE_CHECKING:
    from benchmarks.score_contenders import Scorer

TOLERANCE = {"float32": 1e-3, "bfloat16": 1.5}
"""Nats, of a whole continuation: all round in their own order, lm-eval its log-probabilities, too."""
SHARE = 16
"""Continuations that the slow ones are given: one batch."""
# Times as fast as lm-eval, as the shared KV.
TARGETS = {
    "own 50": (27.0, 2.6),
    "own 200": (47.0, 4.6),
    "shared 50": (36.0, 2.6),
    "shared 200": (66.0, 4.6),
    "single 50": (None, 1.2),
    "single 200": (None, 1.2),
}
FLOOR_TARGET = 1.5
RIVALS = ("unpacked", "lm-eval", "padded", "shared KV")


class DifferentScoresError(Exception):
    """The contenders do not compute the same: no time counts."""


@dataclass(slots=True)
class Result:
    """CPU seconds by contender, a value per repeat."""

    workload: ScoreWorkload
    tokens: int
    """Of prompt and tree, median over the repeats."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    difference: float = 0.0
    """Largest between dcmodel and another, in nats."""

    def ratio(self, over: str, under: str) -> Spread:
        return Spread.of(
            left / right for left, right in zip(self.seconds[over], self.seconds[under], strict=True)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    use_one_thread()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    counts = [50] if options.quick else options.count
    repeats = 2 if options.quick else options.repeats
    workloads = [ScoreWorkload(kind, count) for kind in options.kind for count in counts]
    tables: list[Table] = []
    for shape in options.shape:
        for dtype in options.dtype:
            tables.append(compare(shape, dtype, workloads, repeats=repeats))
            print(tables[-1].text(), flush=True)
            if options.json:
                write_json(options.json, tables, command=sys.argv[1:])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=["135m"], choices=["135m", "15m"])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--kind", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--count", nargs="+", type=int, default=[50, 200], help="continuations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two repeats, 50 continuations")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def compare(shape: str, dtype: str, workloads: Sequence[ScoreWorkload], *, repeats: int) -> Table:
    """Check that all give the same scores, then time them in turns."""
    from benchmarks.contenders import plain_model
    from benchmarks.random_models import checkpoint
    from benchmarks.score_contenders import Floor, LmEval, Ours, Padded, PlainForward, SharedKV

    folder = checkpoint(shape)
    plain = plain_model(folder, dtype)
    vocab_size = plain.config.vocab_size
    ours, unpacked = Ours(folder, dtype), Ours(folder, dtype, packed=False)
    floor, bare = Floor(folder, dtype), PlainForward(plain)
    results = []
    for workload in workloads:
        # lm-eval itself asks once for continuations that differ in the last token only.
        lm_eval = LmEval(plain, folder, share=None if workload.kind == "single" else SHARE)
        scorers: list[Scorer] = [ours, unpacked, lm_eval, Padded(plain, share=SHARE), SharedKV(plain)]
        result = Result(workload, 0)
        results.append(result)
        first = workload.draw("check", vocab_size)
        result.difference = _difference(scorers, first, dtype)
        for item in (floor, bare):
            item.run(first)
        counts = []
        for repeat in range(repeats):
            task = workload.draw(f"repeat {repeat}", vocab_size)
            counts.append(len(task.prompt) + len(task.tree))
            turns: list[tuple[str, Callable[[], object], float]] = [
                (scorer.name, lambda scorer=scorer, task=task: scorer.run(_part(task, scorer.share)), scale)
                for scorer in scorers
                for scale in [len(task.continuations) / len(_part(task, scorer.share).continuations)]
            ]
            turns += [(item.name, lambda item=item, task=task: item.run(task), 1.0) for item in (floor, bare)]
            turn = repeat % len(turns)
            for name, run, scale in (*turns[turn:], *turns[:turn]):
                seconds, _ = cpu_seconds(run)
                result.seconds.setdefault(name, []).append(scale * seconds)
            cached = workload.draw(f"cached {repeat}", vocab_size)
            ours.warm(cached)
            seconds, _ = cpu_seconds(lambda cached=cached: ours.run(cached))
            result.seconds.setdefault("cached", []).append(seconds)
        result.tokens = sorted(counts)[len(counts) // 2]
    for item in (ours, unpacked, floor):
        item.close()
    return _table(shape, dtype, results)


def _part(task: ScoreTask, share: int | None) -> ScoreTask:
    """So many continuations, drawn at random: neighbours may be alike."""
    if share is None or share >= len(task.continuations):
        return task
    return replace(task, continuations=tuple(Random(0).sample(task.continuations, share)))


def _difference(scorers: Sequence[Scorer], task: ScoreTask, dtype: str) -> float:
    """The largest between dcmodel and any other, over all that the other is given; also warms them up."""
    ours, *others = scorers
    expected = dict(zip(task.continuations, ours.run(task), strict=True))
    worst = 0.0
    for scorer in others:
        part = _part(task, scorer.share)
        for item, score in zip(part.continuations, scorer.run(part), strict=True):
            gap = abs(score - expected[item])
            if not gap <= TOLERANCE[dtype]:
                raise DifferentScoresError(f"{scorer.name} gives {item} {score}, dcmodel {expected[item]}")
            worst = max(worst, gap)
    return worst


def _table(shape: str, dtype: str, results: Sequence[Result]) -> Table:
    table = Table(
        f"{shape} {dtype}: scoring continuations of 200 tokens, CPU; median (min-max) of "
        f"{len(results[0].seconds['dcmodel'])}",
        [
            *("workload", "tokens", "dcmodel ms", "cached ms", "unpacked/", "lm-eval/", "target", "padded/"),
            *("shared KV/", "target", "dcmodel/one forward", "dcmodel/plain forward"),
        ],
        notes=[
            "x/: the time of x over dcmodel's. tokens: prompt and inner nodes of the tree",
            "unpacked: dcmodel without oneDNN's layout of the weights, as all the others run",
            "cached: dcmodel where the prompt, but no continuation, was scored before",
            f"padded, and lm-eval unless `single`, were given {SHARE} continuations; their time is scaled",
            f"one forward: our engine over as many tokens with as many rows of logits; target {FLOOR_TARGET}",
            "plain forward: the unmodified model",
            f"scores differ by at most {max(result.difference for result in results):.1e} nats",
        ],
    )
    for result in results:
        lm_target, kv_target = (
            TARGETS.get(result.workload.name, (None, None)) if shape == "135m" else (None,) * 2
        )
        own, cached = (
            Spread.of(1000 * value for value in result.seconds[name]) for name in ("dcmodel", "cached")
        )
        ratios = {name: result.ratio(name, "dcmodel") for name in RIVALS}
        floors = {name: result.ratio("dcmodel", name) for name in ("one forward", "plain forward")}
        table.add(
            [
                *(result.workload.name, str(result.tokens), own.text(0), cached.text(0)),
                ratios["unpacked"].text(),
                *(ratios["lm-eval"].text(1), _target(lm_target), ratios["padded"].text(1)),
                *(ratios["shared KV"].text(), _target(kv_target)),
                *(floor.text() for floor in floors.values()),
            ],
            workload=result.workload.name,
            tokens=result.tokens,
            seconds=result.seconds,
            difference=result.difference,
            ratios={name: spread.median for name, spread in (ratios | floors).items()},
            targets={"lm-eval": lm_target, "shared KV": kv_target, "one forward": FLOOR_TARGET},
        )
    return table


def _target(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
