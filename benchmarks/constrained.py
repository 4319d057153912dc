"""dcmodel with a constraint against dcmodel without one, on the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from benchmarks.clock import Spread, cpu_seconds
from benchmarks.contenders import Ours, load_ours
from benchmarks.tables import Table
from benchmarks.workloads import Item, Workload
from dcmodel.constraint import Constraint
from dcmodel.constraints import JsonSchema, Regex
from dcmodel.types import Completion, GenerateRequest

# No end is allowed before max_tokens: as many forwards as without it.
REGEX = r"[a-z ,.;:!?']+§"
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "city": {"enum": ["Berlin", "Lisbon", "Nairobi", "Osaka"]},
        "active": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "address": {
            "type": "object",
            "properties": {
                "street": {"type": "string", "maxLength": 16},
                "number": {"type": "integer", "minimum": 1, "maximum": 999},
            },
            "required": ["street", "number"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "city", "active", "tags", "address"],
    "additionalProperties": False,
}
CONSTRAINTS: dict[str, Constraint] = {"regex": Regex(REGEX), "json schema": JsonSchema(SCHEMA)}
MAX_TOKENS = {"regex": 32, "json schema": 128}
STEP_LIMIT = 1.03


@dataclass(slots=True)
class Pair:
    """A constrained batch beside an unconstrained one of the same lengths; a value per repeat."""

    label: str
    time: list[float] = field(default_factory=list)
    """Constrained over unconstrained CPU time for as many tokens."""
    per_forward: list[float] = field(default_factory=list)
    """The same per forward; those of a schema compute forced tokens as well."""
    forwards: list[tuple[int, int]] = field(default_factory=list)
    forced: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    """Unconstrained CPU time per forward."""


def compare_constrained(
    name: str, folder: Path, dtype: str, sizes: Sequence[int], *, repeats: int
) -> list[Pair]:
    ours = load_ours(folder, dtype)
    pairs = []
    bar = tqdm(total=len(sizes) * len(CONSTRAINTS) * (repeats + 1), desc=f"constrained {name}", unit="pair")
    try:
        for size in sizes:
            for kind, constraint in CONSTRAINTS.items():
                pair = Pair(f"{kind} B={size}")
                for repeat in range(repeats + 1):
                    _measure(ours, Workload("equal", size), constraint, MAX_TOKENS[kind], repeat, pair)
                    bar.update()
                pairs.append(pair)
    finally:
        bar.close()
        ours.close()
    return pairs


def _measure(
    ours: Ours, workload: Workload, constraint: Constraint, max_tokens: int, repeat: int, pair: Pair
) -> None:
    """Repeat 0 is the warm-up: constraints compile, buffers grow."""
    items = workload.draw(2 * repeat + 500_000, ours.vocab_size)
    requests = [
        GenerateRequest(prompt_ids=item.prompt, constraint=constraint, max_tokens=max_tokens, logprobs=False)
        for item in items
    ]
    ours.meter.reset()
    seconds, completions = cpu_seconds(lambda: ours.complete(requests))
    forwards = ours.meter.meter.forwards
    # Without a constraint: other prompts (these are cached now), the same number of tokens of each.
    others = workload.draw(2 * repeat + 500_001, ours.vocab_size)
    lengths = [len(completion.token_ids) for completion in completions]
    plain = [Item(item.prompt, length) for item, length in zip(others, lengths, strict=True)]
    ours.meter.reset()
    plain_seconds, _ = cpu_seconds(lambda: ours.run(plain))
    plain_forwards = ours.meter.meter.forwards
    if repeat:
        pair.time.append(seconds / plain_seconds)
        pair.per_forward.append((seconds / forwards) / (plain_seconds / plain_forwards))
        pair.forwards.append((forwards, plain_forwards))
        pair.forced.append(_forced_share(completions))
        pair.milliseconds.append(1000 * plain_seconds / plain_forwards)


def _forced_share(completions: Sequence[Completion]) -> float:
    tokens = sum(item.usage.completion_tokens for item in completions)
    return sum(item.usage.forced_tokens for item in completions) / tokens


def constrained_table(name: str, dtype: str, pairs: Sequence[Pair]) -> Table:
    table = Table(
        f"{name} {dtype}: constrained over unconstrained, median (min-max) of {len(pairs[0].time)}",
        ["constraint", "plain ms/forward", "forwards", "forced", "per forward", "time", "tokens/s", "met"],
        notes=[
            "ratios of CPU time, mask threads included, for equal numbers of tokens",
            f"to hold on 135m: regex (as many forwards) at most {STEP_LIMIT}, json schema below 1",
        ],
    )
    for pair in pairs:
        time = Spread.of(pair.time)
        is_met = time.median <= (STEP_LIMIT if pair.label.startswith("regex") else 1.0)
        constrained, plain = pair.forwards[-1]
        table.add(
            [
                pair.label,
                Spread.of(pair.milliseconds).text(),
                f"{constrained} of {plain}",
                f"{Spread.of(pair.forced).median:.0%}",
                Spread.of(pair.per_forward).text(3),
                time.text(3),
                f"{1 / time.median:.2f}",
                ("yes" if is_met else "NO") if name.startswith("135m") else "",
            ],
            constraint=pair.label,
            time=pair.time,
            per_forward=pair.per_forward,
            forced=pair.forced,
            forwards=pair.forwards,
            met=is_met,
        )
    return table
