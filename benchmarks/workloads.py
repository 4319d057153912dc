"""What is asked of the contenders: batches of prompts, each with a number of new tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = ("equal", "ragged", "shared")
FIRST_ID = 300  # past the single bytes and special tokens of every vocabulary here


@dataclass(frozen=True, slots=True)
class Item:
    """One request."""

    prompt: tuple[int, ...]
    new: int


@dataclass(frozen=True, slots=True)
class Workload:
    """equal: 64 + 16 tokens; ragged: 16-128 + 8-32; shared: 200 common, 16 own + 16."""

    kind: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.kind} B={self.size}"

    def draw(self, repeat: int, vocab_size: int) -> list[Item]:
        """The lengths are the same in every repeat, the prompts are not (a prefix cache would know them)."""
        lengths = random.Random(f"{self.kind} {self.size}")
        ids = random.Random(f"{self.kind} {self.size} {repeat}")

        def text(count: int) -> tuple[int, ...]:
            return tuple(ids.randrange(FIRST_ID, vocab_size - 2) for _ in range(count))

        if self.kind == "equal":
            return [Item(text(64), 16) for _ in range(self.size)]
        if self.kind == "ragged":
            return [Item(text(lengths.randint(16, 128)), lengths.randint(8, 32)) for _ in range(self.size)]
        common = text(200)
        return [Item(common + text(16), 16) for _ in range(self.size)]
