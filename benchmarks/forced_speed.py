"""Generation on the embedded model with forced tokens, and with each of them drawn."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks.clock import Spread, cpu_seconds
from benchmarks.contenders import Ours, load_ours
from benchmarks.mask_cases import Case
from benchmarks.tables import Table
from dcmodel.constraint import CompiledConstraint, Constraint, Matcher
from dcmodel.constraints import JsonSchema
from dcmodel.constraints.algebra.delegating import DelegatingMatcher
from dcmodel.errors import InvalidConstraintError
from dcmodel.types import Completion, GenerateRequest
from dctokenizers import Tokenizer
from lmql_backends.tiny import MODEL_DIR

PROMPT = "Here is a record. "
MAX_TOKENS = 64
SIZES = (1, 8)


class Unforced(Constraint):
    """The same rule, which says of no token that it must come."""

    kind = "unforced"

    def __init__(self, rule: Constraint) -> None:
        self._rule = rule

    @property
    def key(self) -> Hashable:
        return (self.kind, self._rule.key)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return _Compiled(self._rule.compile(tokenizer))

    def to_dict(self) -> Mapping[str, Any]:
        return self._rule.to_dict()

    def parse(self, text: str) -> Any:
        return self._rule.parse(text)


@dataclass(frozen=True, slots=True)
class _Compiled(CompiledConstraint):
    inner: CompiledConstraint

    def matcher(self) -> Matcher:
        return _Matcher(self.inner.matcher())


class _Matcher(DelegatingMatcher):
    def forced(self) -> list[int]:
        return []


@dataclass(frozen=True, slots=True)
class Round:
    """All rules once, in batches."""

    seconds: float
    forwards: int
    tokens: list[tuple[int, ...]]
    forced: int


def speed_table(cases: Sequence[Case], *, repeats: int) -> Table:
    """Greedy generations under each schema, forcing on and off in turns."""
    ours = load_ours(MODEL_DIR, "float32")
    try:
        tokenizer = ours.model.tokenizer
        rules = [JsonSchema(case.schema) for case in cases]
        rules = [rule for rule in rules if _compiles(rule, tokenizer)]
        table = Table(
            f"embedded model, {len(rules)} schemas, at most {MAX_TOKENS} tokens: forcing on and off",
            ("batch", "tokens", "forced", "forwards", "off", "CPU s", "off", "speed-up", "same outputs"),
            notes=[f"CPU time of the process, median (range) of {repeats} repeats; ratios of neighbours"],
        )
        for size in SIZES:
            _add(table, ours, rules, size, repeats)
    finally:
        ours.close()
    return table


def _add(table: Table, ours: Ours, rules: Sequence[Constraint], size: int, repeats: int) -> None:
    plain: list[Round] = []
    forced: list[Round] = []
    for repeat in tqdm(range(repeats + 1), desc=f"forced, batch of {size}", unit="round"):
        kinds = [(forced, list(rules)), (plain, [Unforced(rule) for rule in rules])]
        for rounds, wanted in kinds if repeat % 2 else kinds[::-1]:
            result = _round(ours, wanted, size)
            # The first warms up: constraints compile, buffers grow.
            if repeat:
                rounds.append(result)
    speed = Spread.of(without.seconds / with_.seconds for without, with_ in zip(plain, forced, strict=True))
    same = sum(left == right for left, right in zip(forced[0].tokens, plain[0].tokens, strict=True))
    tokens = sum(map(len, forced[0].tokens))
    table.add(
        [
            str(size),
            str(tokens),
            f"{forced[0].forced / tokens:.1%}",
            str(forced[0].forwards),
            str(plain[0].forwards),
            Spread.of(item.seconds for item in forced).text(),
            Spread.of(item.seconds for item in plain).text(),
            speed.text(),
            f"{same} of {len(rules)}",
        ],
        batch=size,
        tokens=tokens,
        forced=forced[0].forced,
        forwards=(forced[0].forwards, plain[0].forwards),
        speed_up=speed.median,
        same=same,
        met=same == len(rules),
    )


def _round(ours: Ours, rules: Sequence[Constraint], size: int) -> Round:
    prompt = tuple(ours.model.tokenizer.encode_prompt(PROMPT))
    requests = [
        GenerateRequest(prompt_ids=prompt, constraint=rule, max_tokens=MAX_TOKENS, logprobs=False)
        for rule in rules
    ]

    def run() -> list[Completion]:
        batches = [requests[begin : begin + size] for begin in range(0, len(requests), size)]
        return [completion for batch in batches for completion in ours.complete(batch)]

    ours.meter.reset()
    seconds, completions = cpu_seconds(run)
    return Round(
        seconds,
        ours.meter.meter.forwards,
        [completion.token_ids for completion in completions],
        sum(completion.usage.forced_tokens for completion in completions),
    )


def _compiles(rule: Constraint, tokenizer: Tokenizer) -> bool:
    try:
        rule.compile(tokenizer)
    except InvalidConstraintError:
        return False
    return True
