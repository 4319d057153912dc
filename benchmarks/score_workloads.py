"""What is scored: continuations of one prompt, as token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

Continuation = tuple[int, ...]
PROMPT = 200
LENGTHS = range(2, 7)
START, PER_START = 2, 10
KINDS = ("own", "shared", "single")


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """One prompt and what may follow it."""

    prompt: tuple[int, ...]
    continuations: tuple[Continuation, ...]

    @property
    def tree(self) -> list[Continuation]:
        """Every proper prefix of a continuation, once: what must be computed besides the prompt."""
        return sorted({item[:end] for item in self.continuations for end in range(1, len(item))})


@dataclass(frozen=True, slots=True)
class ScoreWorkload:
    """`own`: several tokens, no two continuations begin alike; `shared`: ten to a start of two tokens;
    `single`: one token each."""

    kind: str
    count: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.count}"

    def draw(self, seed: str, vocab_size: int) -> ScoreTask:
        """The same for the same seed; other seeds have other prompts, which no cache knows."""
        generator = random.Random(f"{self.name} {seed}")
        prompt = tuple(generator.choices(range(5, vocab_size), k=PROMPT))
        return ScoreTask(prompt, self.continuations(generator, vocab_size))

    def continuations(self, generator: random.Random, vocab_size: int) -> tuple[Continuation, ...]:
        firsts = generator.sample(range(5, vocab_size), self.count)
        if self.kind == "single":
            return tuple((first,) for first in firsts)
        starts: Sequence[Continuation] = [(first,) for first in firsts]
        if self.kind == "shared":
            pairs = list(zip(firsts, reversed(firsts), strict=True))
            starts = [pairs[place // PER_START] for place in range(self.count)]
        return tuple(
            (*start, *generator.choices(range(5, vocab_size), k=max(1, length - len(start))))
            for start in starts
            for length in [generator.choice(LENGTHS)]
        )
