"""What the walks of `mask_walks` say, in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.clock import Spread
from benchmarks.mask_walks import PASSES, Outcome
from benchmarks.tables import Table

MEAN_LIMIT = 1.2
MEDIAN_LIMIT_US = 3.0
START_LIMIT_US = 10.0

Turn = dict[int, Outcome]
"""Outcomes by the number of the schema."""
Shared = set[tuple[int, int]]
"""Texts (schema, text) over which both engines went to the end."""


@dataclass(frozen=True, slots=True)
class Results:
    """Of one vocabulary: by engine, the turns that it took."""

    vocabulary: str
    turns: dict[str, list[Turn]]
    labels: dict[str, str]
    """Engine and version."""


def compile_table(results: Results) -> Table:
    table = Table(
        f"{results.vocabulary}: compiling, ms of CPU time",
        ("engine", "schemas", "refused", "killed", "stuck", "median", "99 %", "max", "median over raw's"),
        notes=["killed: over the limits of time or memory, or crashed; stuck: the same later, in a mask"],
    )
    raw = _compile_times(results.turns["llguidance"][0])
    for name, turns in results.turns.items():
        status = Counter(outcome.status for outcome in turns[0].values())
        by_turn = [_compile_times(turn) for turn in turns]
        medians, tails, most = (
            Spread.of(1e-6 * float(of(list(times.values()))) for times in by_turn)
            for of in (np.median, _percentile_99, np.max)
        )
        shared = by_turn[0].keys() & raw.keys()
        ratio = float(np.median([by_turn[0][case] / raw[case] for case in shared]))
        counts = [str(status[key]) for key in ("refused", "killed", "stuck")]
        table.add(
            [
                results.labels[name],
                str(len(turns[0])),
                *counts,
                *(item.text() for item in (medians, tails, most)),
                f"{ratio:.1f}",
            ],
            engine=results.labels[name],
            schemas=len(turns[0]),
            status=dict(status),
            median=medians.median,
            p99=tails.median,
            max=most.median,
            ratio=ratio,
        )
    return table


def step_table(results: Results, name: str) -> Table:
    """One pass: what a mask and an advance cost in each engine, over all that it took."""
    table = Table(
        f"{results.vocabulary}: masks, {name}, us of CPU time, median (range) of the turns",
        (
            "engine",
            "mask median",
            "99 %",
            "max",
            "mean",
            "advance median",
            "mean",
            "start",
            "mean over raw's",
            "texts",
            "refused",
        ),
        notes=["mean over raw's: masks of those texts that both engines finished; refused: valid texts"],
    )
    for engine, turns in results.turns.items():
        fills = [_steps(turn, name, "fill") for turn in turns]
        advances = [_steps(turn, name, "advance") for turn in turns]
        starts = [[walk.start[name] for outcome in turn.values() for walk in outcome.walks] for turn in turns]
        shared = _shared(turns[0], results.turns["llguidance"][0])
        ratio = _mean(turns[0], shared, name, "fill") / _mean(
            results.turns["llguidance"][0], shared, name, "fill"
        )
        walks = [walk for outcome in turns[0].values() for walk in outcome.walks]
        columns = {
            "median": _spread(fills, np.median),
            "p99": _spread(fills, _percentile_99),
            "max": _spread(fills, np.max),
            "mean": _spread(fills, np.mean),
            "advance_median": _spread(advances, np.median),
            "advance_mean": _spread(advances, np.mean),
            "start": _spread(starts, np.median),
        }
        refused = sum(not walk.is_accepted for walk in walks)
        cells = [spread.text(1) for spread in columns.values()]
        table.add(
            [results.labels[engine], *cells, f"{ratio:.2f}", str(len(walks)), str(refused)],
            engine=results.labels[engine],
            **{key: spread.median for key, spread in columns.items()},
            ratio=ratio,
            texts=len(walks),
            refused=refused,
        )
    return table


def floor_table(results: Results, cached: Sequence[float]) -> Table:
    """What we add to the raw engine; `cached`: microseconds of starting a cached request, by turn."""
    raw, ours = results.turns["llguidance"], results.turns["dcmodel"]
    shared = _shared(raw[0], ours[0])
    steps = sum(len(raw[0][case].walks[text].fill["cold"]) for case, text in shared)
    table = Table(
        f"{results.vocabulary}: dcmodel over llguidance, fill and advance, us; "
        f"{len(shared)} texts, {steps} steps, median (range) of {len(raw)} turns",
        ("what", "llguidance", "dcmodel", "difference", "ratio", "limit", "met"),
    )
    for name in PASSES:
        for what, of in (("mean", np.mean), ("median", np.median), ("99 %", _percentile_99)):
            pairs = [
                (_over(left, shared, name, of), _over(right, shared, name, of))
                for left, right in zip(raw, ours, strict=True)
            ]
            difference = Spread.of(right - left for left, right in pairs)
            ratio = Spread.of(right / left for left, right in pairs)
            is_met = {"mean": ratio.median <= MEAN_LIMIT, "median": difference.median <= MEDIAN_LIMIT_US}
            limit = {"mean": f"x {MEAN_LIMIT}", "median": f"+ {MEDIAN_LIMIT_US} us"}
            table.add(
                [
                    f"{name}, {what}",
                    Spread.of(left for left, _ in pairs).text(),
                    Spread.of(right for _, right in pairs).text(),
                    difference.text(),
                    ratio.text(),
                    limit.get(what, ""),
                    _yes(is_met.get(what)),
                ],
                what=f"{name} {what}",
                pairs=pairs,
                ratio=ratio.median,
                difference=difference.median,
                met=is_met.get(what, True),
            )
    start = Spread.of(cached)
    is_met = start.median <= START_LIMIT_US
    table.add(
        ["start of a cached request", "", start.text(), "", "", f"{START_LIMIT_US} us", _yes(is_met)],
        what="cached start",
        values=list(cached),
        met=is_met,
    )
    return table


def _yes(is_met: bool | None) -> str:
    return "" if is_met is None else "yes" if is_met else "NO"


def _compile_times(turn: Turn) -> dict[int, int]:
    return {case: outcome.compile for case, outcome in turn.items() if outcome.status in ("ok", "stuck")}


def _steps(turn: Turn, name: str, field: str) -> list[int]:
    return [
        time
        for outcome in turn.values()
        for walk in outcome.walks
        for time in getattr(walk, field).get(name, ())
    ]


def _shared(left: Turn, right: Turn) -> Shared:
    return _finished(left) & _finished(right)


def _finished(turn: Turn) -> Shared:
    return {(case, walk.text) for case, outcome in turn.items() for walk in outcome.walks if walk.is_accepted}


def _mean(turn: Turn, shared: Shared, name: str, field: str) -> float:
    times = [getattr(turn[case].walks[text], field)[name] for case, text in shared]
    return float(np.mean([time for walk in times for time in walk]))


def _over(turn: Turn, shared: Shared, name: str, of: Callable[[list[int]], float]) -> float:
    times = [time for case, text in sorted(shared) for time in turn[case].walks[text].both[name]]
    return 1e-3 * float(of(times))


def _spread(turns: Iterable[list[int]], of: Callable[[list[int]], float]) -> Spread:
    return Spread.of(1e-3 * float(of(times)) for times in turns)


def _percentile_99(times: list[int]) -> float:
    return float(np.percentile(times, 99))
