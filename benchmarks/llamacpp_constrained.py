"""dcmodel with a constraint beside dcmodel without one, on a GGUF model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tqdm import tqdm

from benchmarks.clock import Spread
from benchmarks.llamacpp_ours import Ours
from benchmarks.llamacpp_setting import Setting
from benchmarks.llamacpp_turns import Times, measure
from benchmarks.llamacpp_workloads import NEW, Streams, whole_words
from benchmarks.tables import Table
from benchmarks.workloads import FIRST_ID, Item
from dcmodel.constraint import Constraint
from dcmodel.constraints import Regex, TokenSet
from dcmodel.mask import allocate_rows, row_to_ids
from dcmodel.types import GenerateRequest

LIMIT = 1.03
FEW = 8
# No end before `NEW` tokens: as many steps as without it.
REGEX = r"[a-z ,.;:!?']+§"


@dataclass(slots=True)
class Pair:
    """Constrained over unconstrained, a value per repeat."""

    label: str
    allowed: float
    """Share of the vocabulary, at the first token."""
    time: list[float] = field(default_factory=list)
    """Wall time per token."""
    cpu: list[float] = field(default_factory=list)
    """CPU time per token."""
    outside: list[float] = field(default_factory=list)
    """Seconds outside llama_decode, more than without the constraint, over all of its time."""
    decodes: list[float] = field(default_factory=list)
    """Calls of llama_decode per token."""


def constraints(vocab_size: int) -> Mapping[str, Constraint]:
    ids = random.Random("constraints").sample(range(FIRST_ID, vocab_size - 2), vocab_size // 2)
    return {
        "half of the tokens": TokenSet(ids, min_count=NEW),
        f"{FEW} tokens": TokenSet(ids[:FEW], min_count=NEW),
        "regex": Regex(REGEX),
    }


def constrained_table(setting: Setting, sizes: Sequence[int], *, repeats: int) -> Table:
    ours = Ours(setting)
    words = whole_words(ours.tokenizer)
    rules = constraints(ours.tokenizer.vocab_size)
    pairs = []
    bar = tqdm(
        total=len(sizes) * len(rules) * (repeats + 1), desc=f"constrained {setting.weights}", unit="pair"
    )
    try:
        for size in sizes:
            for name, rule in rules.items():
                pair = Pair(f"{name}, {Streams(size).name}", _allowed(ours, rule))
                for repeat in range(repeats + 1):
                    _measure(ours, Streams(size), words, rule, repeat, pair)
                    bar.update()
                pairs.append(pair)
    finally:
        bar.close()
        ours.close()
    return _table(setting, pairs)


def _allowed(ours: Ours, rule: Constraint) -> float:
    vocab_size = ours.tokenizer.vocab_size
    row = allocate_rows(1, vocab_size)[0]
    rule.compile(ours.tokenizer).matcher().fill_mask(row)
    return len(row_to_ids(row, vocab_size)) / vocab_size


def _measure(
    ours: Ours, workload: Streams, words: Sequence[int], rule: Constraint, repeat: int, pair: Pair
) -> None:
    """Repeat 0 is the warm-up: constraints compile, buffers grow. Who begins changes."""
    wall: dict[str, float] = {}
    cpu: dict[str, float] = {}
    outside: dict[str, float] = {}
    decodes: dict[str, float] = {}
    for kind in ("with", "without") if repeat % 2 else ("without", "with"):
        items = workload.draw(f"{pair.label} {kind} {repeat}", words)
        requests = [_request(item, rule if kind == "with" else None) for item in items]
        ours.reset()
        times = Times()
        completions = measure(partial(ours.complete, requests), times)
        tokens = sum(len(completion.token_ids) for completion in completions)
        wall[kind], cpu[kind] = times.wall[0] / tokens, times.cpu[0] / tokens
        outside[kind] = (times.wall[0] - ours.decodes.wall) / tokens
        decodes[kind] = ours.decodes.calls / tokens
    if repeat:
        pair.time.append(wall["with"] / wall["without"])
        pair.cpu.append(cpu["with"] / cpu["without"])
        pair.outside.append((outside["with"] - outside["without"]) / wall["without"])
        pair.decodes.append(decodes["with"] / decodes["without"])


def _request(item: Item, rule: Constraint | None) -> GenerateRequest:
    return GenerateRequest(
        prompt_ids=item.prompt,
        constraint=rule,
        max_tokens=item.new,
        ignore_eos=rule is None,
        logprobs=False,
    )


def _table(setting: Setting, pairs: Sequence[Pair]) -> Table:
    table = Table(
        f"{setting.name}: constrained over unconstrained, median (min-max) of {len(pairs[0].time)}",
        ["constraint", "allowed", "time per token", "CPU", "calls", "outside llama_decode", "met"],
        notes=[
            "time per token: wall time; calls: of llama_decode, per token",
            "outside llama_decode: what is added there, as a share of the whole unconstrained time",
            f"to hold: as many calls, and at most {LIMIT - 1:.0%} more outside; on shared cores, the time of",
            "the calls themselves, which do the same with a mask, differs by more than that from run to run",
        ],
    )
    for pair in pairs:
        time = Spread.of(pair.time)
        outside, calls = Spread.of(pair.outside), Spread.of(pair.decodes)
        is_met = (1 + outside.median) * calls.median <= LIMIT
        table.add(
            [
                pair.label,
                f"{pair.allowed:.1%}",
                time.text(3),
                Spread.of(pair.cpu).text(3),
                calls.text(),
                outside.text(3),
                "yes" if is_met else "NO",
            ],
            constraint=pair.label,
            allowed=pair.allowed,
            time=pair.time,
            cpu=pair.cpu,
            outside=pair.outside,
            calls=pair.decodes,
            met=is_met,
        )
    return table
