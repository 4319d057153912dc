"""Multiple-choice questions behind a common few-shot prompt, with known numbers of tokens."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from dctokenizers import Tokenizer

_WORD = re.compile(r" [a-z]{2,}")


@dataclass(frozen=True, slots=True)
class Question:
    """A whole context, the common part included, and its options."""

    context: str
    options: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Requests for log-likelihoods."""
        return [(self.context, option) for option in self.options]


class QuestionMaker:
    """Draws texts from words that are one token each, wherever they stand."""

    def __init__(self, tokenizer: Tokenizer, *, shared: int, own: int, options: int, lengths: range) -> None:
        """`shared`, `own`: tokens of the common part and of a question; `lengths`: of an option."""
        self._words = [
            text
            for token_id in range(tokenizer.vocab_size)
            if _WORD.fullmatch(text := tokenizer.decode([token_id])) and tokenizer.encode(text) == [token_id]
        ]
        self._shared, self._own, self._options, self._lengths = shared, own, options, lengths

    def draw(self, count: int, seed: str) -> list[Question]:
        """Another common part, and other questions, for each seed."""
        draw = random.Random(seed)

        def text(length: int) -> str:
            return "".join(draw.choices(self._words, k=length))

        common = text(self._shared)
        return [
            Question(
                common + text(self._own),
                tuple(text(draw.choice(self._lengths)) for _ in range(self._options)),
            )
            for _ in range(count)
        ]
