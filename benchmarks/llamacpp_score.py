"""Scoring 50 candidates of one prompt: dcmodel, and two loops over `Llama.eval`."""

from __future__ import annotations

from functools import partial

from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.llamacpp_check import check_scores
from benchmarks.llamacpp_ours import Ours
from benchmarks.llamacpp_peers import NAIVE_SHARE, Scoring, naive_part
from benchmarks.llamacpp_setting import Setting
from benchmarks.llamacpp_turns import in_turns, ratio
from benchmarks.llamacpp_workloads import draw_candidates, whole_words
from benchmarks.tables import Table

# Times as fast as those who compute each candidate from the beginning, or from the prompt's end.
TARGETS = {"naive": 65.0, "reusing": 8.5}


def score_table(setting: Setting, *, repeats: int) -> Table:
    """Check that all give the same scores, then time them in turns."""
    ours, peer = Ours(setting), Scoring(setting)
    words = whole_words(ours.tokenizer)
    seconds: dict[str, list[float]] = {}
    decodes: dict[str, list[float]] = {"dcmodel": [], "cached": []}
    try:
        difference = _difference(setting, ours, peer, words)
        for repeat in tqdm(range(repeats), desc=f"score {setting.weights} {setting.mode}", unit="turn"):
            task = draw_candidates(f"repeat {repeat}", words)
            variants = [
                ("dcmodel", partial(ours.score, task)),
                ("reusing", partial(peer.reusing, task)),
                ("naive", partial(peer.naive, naive_part(task))),
            ]
            ours.reset()
            in_turns(repeat, variants, seconds)
            decodes["dcmodel"].append(ours.decodes.wall)
            cached = draw_candidates(f"cached {repeat}", words)
            ours.warm(cached)
            peer.warm(cached)
            variants = [
                ("cached", partial(ours.score, cached)),
                ("reusing, cached", partial(peer.candidates, cached)),
            ]
            ours.reset()
            in_turns(repeat, variants, seconds)
            decodes["cached"].append(ours.decodes.wall)
    finally:
        peer.close()
        ours.close()
    scale = len(draw_candidates("check", words).continuations) / NAIVE_SHARE
    seconds["naive"] = [scale * value for value in seconds["naive"]]
    return _table(setting, seconds, decodes, difference)


def _difference(setting: Setting, ours: Ours, peer: Scoring, words: list[int]) -> float:
    task = draw_candidates("check", words)
    part = naive_part(task)
    reused = peer.reusing(task)
    given = dict(zip(task.continuations, ours.score(task), strict=True))
    return max(
        check_scores(setting, task.continuations, reused, list(given.values())),
        check_scores(
            setting, part.continuations, peer.naive(part), [given[item] for item in part.continuations]
        ),
    )


def _table(
    setting: Setting, seconds: dict[str, list[float]], decodes: dict[str, list[float]], difference: float
) -> Table:
    table = Table(
        f"{setting.name}: 50 candidates (170 tokens, 12 first words) of 256 tokens, median (min-max) of "
        f"{len(seconds['dcmodel'])}",
        ["prompt", "dcmodel ms", "decode's share", "reusing/dcmodel", "target", "naive/dcmodel", "target"],
        notes=[
            "reusing: Llama.eval of the prompt once, then of each candidate behind it",
            f"naive: prompt and candidate from the beginning; {NAIVE_SHARE} of them, time scaled",
            "cached: the prompt was computed before, by dcmodel and by the reusing loop",
            "targets: the prototype's, default mode, f32 weights",
            f"scores differ by at most {difference:.1e} nats",
        ],
    )
    targets = TARGETS if (setting.mode, setting.weights) == ("default", "f32") else {}
    for label, own, reusing in (("new", "dcmodel", "reusing"), ("cached", "cached", "reusing, cached")):
        ratios = {
            "reusing": ratio(seconds[reusing], seconds[own]),
            "naive": ratio(seconds["naive"], seconds[own]),
        }
        cells = []
        for name, spread in ratios.items():
            cells += [spread.text(1), f"{targets[name]:g}" if name in targets else ""]
        share = ratio(decodes[own], seconds[own])
        table.add(
            [
                label,
                Spread.of(1000 * value for value in seconds[own]).text(0),
                f"{share.median:.0%}",
                *cells,
            ],
            prompt=label,
            seconds={own: seconds[own], reusing: seconds[reusing], "naive": seconds["naive"]},
            decode_share=share.median,
            ratios={name: spread.median for name, spread in ratios.items()},
            targets=targets,
            difference=difference,
        )
    return table
