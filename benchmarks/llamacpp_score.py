"""Scoring 50 candidates of one prompt: dcmodel, and two loops over `Llama.eval`."""

from __future__ import annotations

from functools import partial

from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.llamacpp_check import check_scores
from benchmarks.llamacpp_ours import Ours
from benchmarks.llamacpp_peers import NAIVE_SHARE, Scoring, naive_part
from benchmarks.llamacpp_setting import Setting
from benchmarks.llamacpp_turns import Times, in_turns, ratio
from benchmarks.llamacpp_workloads import draw_candidates, whole_words
from benchmarks.tables import Table

# Times as fast as those who compute each candidate from the beginning, or from the prompt's end.
TARGETS = {"naive": 65.0, "reusing": 8.5}


def score_table(setting: Setting, *, repeats: int) -> Table:
    """Check that all give the same scores, then time them in turns."""
    ours, peer = Ours(setting), Scoring(setting)
    words = whole_words(ours.tokenizer)
    times: dict[str, Times] = {}
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
            in_turns(repeat, variants, times)
            decodes["dcmodel"].append(ours.decodes.wall)
            cached = draw_candidates(f"cached {repeat}", words)
            ours.warm(cached)
            peer.warm(cached)
            variants = [
                ("cached", partial(ours.score, cached)),
                ("reusing, cached", partial(peer.candidates, cached)),
            ]
            ours.reset()
            in_turns(repeat, variants, times)
            decodes["cached"].append(ours.decodes.wall)
    finally:
        peer.close()
        ours.close()
    scale = len(draw_candidates("check", words).continuations) / NAIVE_SHARE
    times["naive"] = times["naive"].scaled(scale)
    return _table(setting, times, decodes, difference)


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
    setting: Setting, times: dict[str, Times], decodes: dict[str, list[float]], difference: float
) -> Table:
    table = Table(
        f"{setting.name}: 50 candidates (170 tokens, 12 first words) of 256 tokens, median (min-max) of "
        f"{len(times['dcmodel'].wall)}",
        [
            *("prompt", "dcmodel ms", "decode's share", "reusing/dcmodel", "target", "CPU"),
            *("naive/dcmodel", "target", "CPU"),
        ],
        notes=[
            "reusing: Llama.eval of the prompt once, then of each candidate behind it",
            f"naive: prompt and candidate from the beginning; {NAIVE_SHARE} of them, time scaled",
            "cached: the prompt was computed before, by dcmodel and by the reusing loop",
            "CPU: the ratio before it, by CPU time; targets: the prototype's, default mode, f32 weights",
            f"scores differ by at most {difference:.1e} nats",
        ],
    )
    targets = TARGETS if (setting.mode, setting.weights) == ("default", "f32") else {}
    for label, own, reusing in (("new", "dcmodel", "reusing"), ("cached", "cached", "reusing, cached")):
        mine = times[own]
        others = {"reusing": times[reusing], "naive": times["naive"]}
        ratios = {name: ratio(other.wall, mine.wall) for name, other in others.items()}
        cpu_ratios = {name: ratio(other.cpu, mine.cpu) for name, other in others.items()}
        cells = []
        for name, spread in ratios.items():
            target = f"{targets[name]:g}" if name in targets else ""
            cells += [spread.text(1), target, f"{cpu_ratios[name].median:.1f}"]
        share = ratio(decodes[own], mine.wall)
        table.add(
            [label, Spread.of(1000 * value for value in mine.wall).text(0), f"{share.median:.0%}", *cells],
            prompt=label,
            seconds={"dcmodel": mine.wall, **{name: other.wall for name, other in others.items()}},
            decode_share=share.median,
            ratios={name: spread.median for name, spread in ratios.items()},
            cpu_ratios={name: spread.median for name, spread in cpu_ratios.items()},
            targets=targets,
            difference=difference,
        )
    return table
