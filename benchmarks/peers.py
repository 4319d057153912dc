"""dcmodel against `model.generate` and against transformers' continuous batching."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.clock import Spread, cpu_seconds
from benchmarks.contenders import (
    Contender,
    ContinuousBatching,
    FrozenGenerate,
    Ours,
    Outputs,
    StaticGenerate,
    load_ours,
    plain_model,
)
from benchmarks.metered import Meter
from benchmarks.tables import Table
from benchmarks.workloads import Item, Workload

# Of the prototype on a quiet machine (fp32, bf16): what to compare with. In bfloat16, its `generate` had
# weights with requires_grad=False, for which torch copies them anew for each row of lm_head: a prefill of 32
# prompts then takes three times as long. That is `frozen` here; `generate` has them as from_pretrained does.
TARGETS = {
    "equal B=1": (1.47, 1.46),
    "equal B=8": (1.80, 2.30),
    "equal B=32": (1.83, 2.41),
    "ragged B=8": (2.24, 1.77),
    "ragged B=32": (2.99, 2.21),
    "shared B=8": (5.02, 3.50),
    "shared B=32": (7.62, 5.46),
}
# Two tokens whose logits are nearer than this are a tie: float32 sums depend on their order.
TIE = 1e-4


@dataclass(slots=True)
class Result:
    """One workload's CPU seconds, by contender, a value per repeat."""

    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    agreeing: dict[str, float] = field(default_factory=dict)
    """Share of requests with the same tokens as generate."""
    meters: list[Meter] = field(default_factory=list)
    """Of dcmodel, per repeat."""

    def ratio(self, contender: str, base: str = "generate") -> Spread:
        pairs = zip(self.seconds[base], self.seconds[contender], strict=True)
        return Spread.of(left / right for left, right in pairs)


class DifferentTokensError(Exception):
    """The contenders do not compute the same: no time counts."""


def compare(
    folder: Path, dtype: str, workloads: Sequence[Workload], *, repeats: int, continuous: bool = True
) -> list[Result]:
    """Run all contenders on all workloads, one after the other in every repeat."""
    plain = plain_model(folder, dtype)
    ours = load_ours(folder, dtype)
    contenders: list[Contender] = [StaticGenerate(plain), ours, ours.with_logprobs()]
    if dtype == "bfloat16":
        contenders.append(FrozenGenerate(plain))
    if continuous:
        contenders.append(ContinuousBatching(plain_model(folder, dtype)))
    bar = tqdm(total=len(workloads) * len(contenders) * (repeats + 1), desc=dtype, unit="run")
    try:
        return [_run(workload, contenders, ours, plain, dtype, repeats, bar) for workload in workloads]
    finally:
        bar.close()
        ours.close()


def _run(
    workload: Workload,
    contenders: Sequence[Contender],
    ours: Ours,
    plain: Any,
    dtype: str,
    repeats: int,
    bar: tqdm[Any],
) -> Result:
    result = Result(workload, {contender.name: [] for contender in contenders})
    first = workload.draw(0, ours.vocab_size)
    with ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(contender.ready(first))
        outputs = {}
        for contender in contenders:
            outputs[contender.name] = contender.run(_fresh(workload, contender, 0, ours.vocab_size))
            bar.update()
        # The second face of dcmodel would find the first one's prompts in the cache: it has its own.
        for contender in contenders:
            reference = outputs["generate"]
            items = first
            if contender.name == "dcmodel+logprobs":
                items = _fresh(workload, contender, 0, ours.vocab_size)
                reference = contenders[0].run(items)
            share = _check(plain, items, reference, outputs[contender.name], contender.name, dtype)
            result.agreeing[contender.name] = share
        for repeat in range(1, repeats + 1):
            turn = repeat % len(contenders)
            for contender in (*contenders[turn:], *contenders[:turn]):
                items = _fresh(workload, contender, repeat, ours.vocab_size)
                ours.meter.reset()
                seconds, _ = cpu_seconds(lambda contender=contender, items=items: contender.run(items))
                result.seconds[contender.name].append(seconds)
                if contender is ours:
                    result.meters.append(ours.meter.meter)
                    ours.meter.reset()  # what runs next, unmeasured, must not count here
                bar.update()
    return result


def _fresh(workload: Workload, contender: Contender, repeat: int, vocab_size: int) -> list[Item]:
    offset = 100_000 if contender.name.endswith("+logprobs") else 0
    return workload.draw(repeat + offset, vocab_size)


def _check(
    plain: Any, items: Sequence[Item], expected: Outputs, given: Outputs, name: str, dtype: str
) -> float:
    """Share of equal outputs. In float32 every difference must begin at a tie."""
    same = 0
    for item, left, right in zip(items, expected, given, strict=True):
        if len(right) != item.new:
            raise DifferentTokensError(f"{name} gave {len(right)} tokens where {item.new} were asked for")
        if left == right:
            same += 1
        elif dtype == "float32":
            place = next(place for place in range(item.new) if left[place] != right[place])
            with torch.inference_mode():
                ids = torch.tensor([[*item.prompt, *left[:place]]])
                logits = plain(ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            gap = abs(float(logits[left[place]] - logits[right[place]]))
            if gap > TIE:
                raise DifferentTokensError(
                    f"{name} differs from generate at token {place}: {right[place]} for {left[place]}, "
                    f"whose logit is {gap:g} away"
                )
    return same / len(items)


def peers_table(model: str, dtype: str, results: Sequence[Result]) -> Table:
    """CPU time of generate over that of each contender."""
    others = [name for name in results[0].seconds if name != "generate"]
    bases = [name for name in others if not name.startswith("dcmodel")]
    table = Table(
        f"{model} {dtype}: times as fast as static generate, median (min-max) of {len(results[0].meters)}",
        ["workload", "generate ms", *others, "target", *(f"dcmodel/{base}" for base in bases), "same tokens"],
        notes=[
            "CPU time of one thread; target: the prototype's, on a quiet machine, for the 135m shape",
            f"logical cores {os.cpu_count()}, torch threads {torch.get_num_threads()}",
        ],
    )
    for result in results:
        name = result.workload.name
        target = TARGETS.get(name) if model == "135m" else None
        generate = Spread.of(1000 * value for value in result.seconds["generate"])
        ratios = {other: result.ratio(other) for other in others}
        against = [result.ratio("dcmodel", base) for base in bases]
        worst = min(result.agreeing.values())
        wanted = target[dtype == "bfloat16"] if target else None
        table.add(
            [
                name,
                generate.text(0),
                *(ratios[other].text() for other in others),
                "" if wanted is None else f"{wanted:.2f}",
                *(spread.text() for spread in against),
                f"{worst:.0%}",
            ],
            workload=name,
            seconds=result.seconds,
            ratios={other: [s.low, s.median, s.high] for other, s in ratios.items()},
            target=wanted,
            same_tokens=result.agreeing,
        )
    return table


def steps_table(model: str, dtype: str, results: Sequence[Result]) -> Table:
    """Where dcmodel's own time goes, per forward."""
    table = Table(
        f"{model} {dtype}: dcmodel's CPU ms per forward, medians",
        ["workload", "forwards", "forward", "sampling", "kv copies", "scheduler", "all else", "engine share"],
        notes=[
            "scheduler: its thread outside the engine; all else: streams, event loop, first and last step"
        ],
    )
    for result in results:
        parts = [
            (meter.forward, meter.rows, meter.copies, meter.around, seconds)
            for seconds, meter in zip(result.seconds["dcmodel"], result.meters, strict=True)
        ]
        count = result.meters[-1].forwards
        forward, rows, copies, around, total = (
            1000 * Spread.of(column).median / count for column in zip(*parts, strict=True)
        )
        rest = total - forward - rows - copies - around
        table.add(
            [
                result.workload.name,
                str(count),
                *(f"{value:.2f}" for value in (forward, rows, copies, around, rest)),
                f"{(total - around - rest) / total:.0%}",
            ],
            workload=result.workload.name,
            forwards=count,
            forward_ms=forward,
            sampling_ms=rows,
            copies_ms=copies,
            scheduler_ms=around,
            other_ms=rest,
        )
    return table
