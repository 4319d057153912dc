"""Tokens per second of several streams: dcmodel, `Llama` one by one, and its server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.llamacpp_check import check_answers, check_tokens
from benchmarks.llamacpp_ours import Ours
from benchmarks.llamacpp_peers import OneByOne
from benchmarks.llamacpp_server import Server, missing
from benchmarks.llamacpp_setting import SHAPE, Setting
from benchmarks.llamacpp_turns import Times, in_turns, ratio
from benchmarks.llamacpp_workloads import COMMON, Streams, whole_words
from benchmarks.tables import Table
from benchmarks.workloads import Item

# Times as fast as `Llama`: of the prototype, KV in float16 and flash attention on both sides.
TARGETS = {
    "f32": {"1 stream": 0.99, "8 streams": 3.6, "32 streams": 5.7, f"32 streams after {COMMON} common": 7.1},
    "q8_0": {"1 stream": 1.0, "8 streams": 4.0, "32 streams": 4.5, f"32 streams after {COMMON} common": 6.5},
}
PARTS = ("decode", "batches", "sampling", "scheduler", "all else")


@dataclass(slots=True)
class Result:
    """One workload's times by contender, a value per repeat."""

    workload: Streams
    tokens: int
    times: dict[str, Times] = field(default_factory=dict)
    same: float = 0.0
    """Share of dcmodel's outputs that are `Llama`'s."""
    steps: int = 0
    parts: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    """Where dcmodel's time goes."""

    def rate(self, name: str) -> Spread:
        """Tokens per second."""
        return Spread.of(self.tokens / value for value in self.times[name].wall)


def compare(setting: Setting, workloads: Sequence[Streams], *, repeats: int) -> list[Result]:
    """Check that all give the same tokens, then time them in turns."""
    ours, peer = Ours(setting), OneByOne(setting)
    words = whole_words(ours.tokenizer)
    server = None if missing() else Server(setting, ours.tokenizer)
    bar = tqdm(total=len(workloads) * (repeats + 1), desc=f"{setting.weights} {setting.mode}", unit="turn")
    results = []
    try:
        for workload in workloads:
            results.append(_checked(setting, workload, ours, peer, server, words))
            bar.update()
            for repeat in range(repeats):
                items = workload.draw(f"repeat {repeat}", words)
                variants = [("dcmodel", partial(ours.run, items)), ("Llama", partial(peer.run, items))]
                if server is not None:
                    variants.append(("server", partial(server.run, items)))
                ours.reset()
                in_turns(repeat, variants, results[-1].times)
                _note_parts(ours, results[-1])
                bar.update()
    finally:
        bar.close()
        if server is not None:
            server.close()
        peer.close()
        ours.close()
    return results


def _checked(
    setting: Setting,
    workload: Streams,
    ours: Ours,
    peer: OneByOne,
    server: Server | None,
    words: Sequence[int],
) -> Result:
    items: list[Item] = workload.draw("check", words)
    expected = peer.run(items)
    result = Result(workload, sum(item.new for item in items))
    result.same = check_tokens(setting, peer, items, expected, ours.run(items))
    if server is not None:
        check_answers(setting, peer, items, expected, server.run(items))
    return result


def _note_parts(ours: Ours, result: Result) -> None:
    """`decode` is wall time; batches, sampling and scheduler are CPU time of the scheduler's thread."""
    meter, decodes = ours.meter.meter, ours.decodes
    assert decodes.calls == meter.forwards, "the clock is not where llama_decode is called"
    parts = {
        "decode": decodes.wall,
        "batches": meter.forward - decodes.thread + meter.copies,
        "sampling": meter.rows,
        "scheduler": meter.around,
    }
    parts["all else"] = result.times["dcmodel"].wall[-1] - sum(parts.values())
    for name, seconds in parts.items():
        result.parts[name].append(seconds)
    result.steps = meter.forwards


def speed_table(setting: Setting, results: Sequence[Result]) -> Table:
    peers = [name for name in ("Llama", "server") if name in results[0].times]
    table = Table(
        f"{setting.name}: tokens/s, median (min-max) of {len(results[0].times['dcmodel'].wall)}",
        [
            *("workload", "dcmodel", *peers, "dcmodel/Llama", "target"),
            *("CPU", *(["dcmodel/server"] * (len(peers) > 1)), "same"),
        ],
        notes=[
            f"wall time, {setting.threads} threads each; new prompts in each turn, computed within the time",
            "CPU: dcmodel/Llama by CPU time; same: dcmodel's outputs that are Llama's, token by token",
            "target: the prototype's in the default mode, with 2 threads on a machine without other work",
        ],
    )
    if missing():
        table.notes.append(f"the server is left out, it needs {missing()}: pip install --group bench")
    for result in results:
        name = result.workload.name
        target = TARGETS[setting.weights].get(name) if setting.mode == "default" else None
        rates = {contender: result.rate(contender) for contender in ("dcmodel", *peers)}
        own = result.times["dcmodel"]
        ratios = {other: ratio(result.times[other].wall, own.wall) for other in peers}
        cpu = ratio(result.times["Llama"].cpu, own.cpu)
        table.add(
            [
                name,
                *(rate.text(0) for rate in rates.values()),
                ratios["Llama"].text(),
                "" if target is None else f"{target:g}",
                cpu.text(),
                *(ratios[other].text() for other in peers[1:]),
                f"{result.same:.0%}",
            ],
            workload=name,
            tokens=result.tokens,
            seconds={contender: times.wall for contender, times in result.times.items()},
            cpu_seconds={contender: result.times[contender].cpu for contender in ("dcmodel", "Llama")},
            ratios={other: spread.median for other, spread in ratios.items()},
            cpu_ratio=cpu.median,
            target=target,
            same=result.same,
        )
    return table


def steps_table(setting: Setting, results: Sequence[Result]) -> Table:
    """What dcmodel adds to the bare `llama_decode`."""
    table = Table(
        f"{SHAPE} {setting.weights} {setting.mode}: dcmodel's ms per step, medians",
        ["workload", "steps", "llama_decode", *PARTS[1:], "decode's share"],
        notes=[
            "llama_decode: wall time within the call; batches, sampling, scheduler: the thread's CPU time",
            "all else: the rest of the wall time; event loop, streams, waiting for a core",
        ],
    )
    for result in results:
        per_step = {
            name: 1000 * Spread.of(values).median / result.steps for name, values in result.parts.items()
        }
        share = ratio(result.parts["decode"], result.times["dcmodel"].wall)
        table.add(
            [
                result.workload.name,
                str(result.steps),
                *(f"{value:.2f}" for value in per_step.values()),
                f"{share.median:.1%}",
            ],
            workload=result.workload.name,
            steps=result.steps,
            milliseconds=per_step,
            share=share.median,
        )
    return table
