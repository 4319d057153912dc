"""What is asked of those that run a GGUF model: prompts whose text and tokens say the same."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.score_workloads import Continuation, ScoreTask
from benchmarks.workloads import Item
from dctokenizers import Tokenizer

PROMPT, NEW = 48, 32
COMMON = 512
SCORE_PROMPT = 256
HEADS = 12
LENGTHS = [3] * 30 + [4] * 20
"""Of the candidates: 50 with 170 tokens."""
WORD = re.compile(rb" [a-z]{3,}")


def whole_words(tokenizer: Tokenizer) -> list[int]:
    """Tokens that are a word of their own: any row of them is what the tokenizer makes of its text.

    The server takes text, everybody else tokens.
    """
    found = []
    for token_id, data in enumerate(tokenizer.all_token_bytes()):
        if WORD.fullmatch(data) and tokenizer.encode(data.decode("ascii")) == [token_id]:
            found.append(token_id)
    return found


@dataclass(frozen=True, slots=True)
class Streams:
    """So many requests at a time: 48 own tokens, behind a common prefix perhaps, and 32 new ones."""

    count: int
    common: int = 0

    @property
    def name(self) -> str:
        behind = f" after {self.common} common" if self.common else ""
        return f"{self.count} stream{'s' if self.count > 1 else ''}{behind}"

    def draw(self, seed: str, words: Sequence[int]) -> list[Item]:
        """The same for the same seed; other seeds have other prompts, which no cache knows."""
        generator = random.Random(f"{self.name} {seed}")
        common = generator.choices(words, k=self.common)
        return [Item((*common, *generator.choices(words, k=PROMPT)), NEW) for _ in range(self.count)]


def parse_streams(names: Sequence[str] | None) -> list[Streams]:
    """ "8", "32-common"; None: all that are measured."""
    if names is None:
        return [Streams(1), Streams(8), Streams(32), Streams(32, COMMON)]
    parts = (name.partition("-") for name in names)
    return [Streams(int(count), COMMON if common else 0) for count, _, common in parts]


def draw_candidates(seed: str, words: Sequence[int]) -> ScoreTask:
    """A prompt of 256 tokens and 50 candidates, which begin with one of 12 words."""
    generator = random.Random(f"candidates {seed}")
    heads = generator.sample(words, HEADS)
    candidates: list[Continuation] = [
        (heads[place % HEADS], *generator.choices(words, k=length - 1))
        for place, length in enumerate(LENGTHS)
    ]
    return ScoreTask(tuple(generator.choices(words, k=SCORE_PROMPT)), tuple(candidates))
