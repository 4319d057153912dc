"""Token healing: the last tokens of a prompt are taken back, and their text must come again.

A prompt that ends in `http:` was cut where its tokenizer would never cut the text, so the model hardly
ever goes on with `//`: it learned the token `://`. Taken back, the text `:` is what the output must begin
with, in whatever tokens. After the idea of guidance (Lundberg 2023); the rule here is our own.
"""

from __future__ import annotations

import numpy as np

from dcmodel.constraint import CompiledConstraint, MaskRow
from dcmodel.constraints.plain import PlainMatcher
from dcmodel.constraints.sorted_vocabulary import sorted_vocabulary
from dcmodel.mask import clear_tail, mask_words
from dctokenizers import Tokenizer

MAX_TOKENS_BACK = 4


def heal(tokenizer: Tokenizer, prompt_ids: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The prompt without its last tokens, and the text of those; as given where nothing is to be healed.

    As few tokens as needed are taken back so that all that could have joined the prompt's end may: the
    longest run (of at most `MAX_TOKENS_BACK`) whose text is the beginning of a longer token. At least
    one token stays.
    """
    vocabulary = sorted_vocabulary(tokenizer)
    text = b""
    best = 0
    best_text = b""
    for count in range(1, min(MAX_TOKENS_BACK, len(prompt_ids) - 1) + 1):
        token_id = prompt_ids[-count]
        if token_id in tokenizer.special_token_ids or token_id in tokenizer.eos_token_ids:
            break
        text = tokenizer.token_bytes(token_id) + text
        if text and _has_longer(vocabulary.tokens, vocabulary.beginning_with(text), text):
            best, best_text = count, text
    try:
        healed = best_text.decode("utf-8")
    except UnicodeDecodeError:  # the border lies inside a character
        return prompt_ids, ""
    return (prompt_ids[: len(prompt_ids) - best], healed) if best else (prompt_ids, "")


def _has_longer(tokens: list[bytes], positions: tuple[int, int], text: bytes) -> bool:
    low, high = positions
    return low < high and tokens[high - 1] != text


class HealingCompiled(CompiledConstraint):
    """Text that begins with `prefix`, and anything after it, special tokens too."""

    def __init__(self, prefix: bytes, tokenizer: Tokenizer) -> None:
        self.prefix = prefix
        self.tokenizer = tokenizer
        self.vocabulary = sorted_vocabulary(tokenizer)
        self.all_row = np.full(mask_words(tokenizer.vocab_size), -1, dtype=np.int32)
        clear_tail(self.all_row, tokenizer.vocab_size)

    def matcher(self) -> HealingMatcher:
        return HealingMatcher(self)

    def row(self, done: int) -> MaskRow:
        """The mask after `done` bytes of the prefix."""
        rest = self.prefix[done:]
        if not rest:
            return self.all_row
        low, high = self.vocabulary.beginning_with(rest)
        positions = list(range(low, high))
        for length in range(1, len(rest)):
            low, high = self.vocabulary.beginning_with(rest[:length])
            while low < high and len(self.vocabulary.tokens[low]) == length:
                positions.append(low)
                low += 1
        return self.vocabulary.row(np.array(positions, dtype=np.int64))


class HealingMatcher(PlainMatcher):
    """One sequence after a healed prompt."""

    __slots__ = ("_compiled", "_done")

    def __init__(self, compiled: HealingCompiled) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._done = [0]

    def _allows(self, token_id: int) -> bool:
        rest = self._compiled.prefix[self._done[-1] :]
        if not rest:
            return True
        text = self._tokenizer.token_bytes(token_id)
        is_text = bool(text) and token_id not in self._tokenizer.special_token_ids
        return is_text and (text.startswith(rest) or rest.startswith(text))

    def _pushed(self, token_id: int) -> None:
        length = len(self._tokenizer.token_bytes(token_id))
        self._done.append(min(self._done[-1] + length, len(self._compiled.prefix)))

    def _popped(self, count: int) -> None:
        del self._done[-count:]

    def _fill(self, row: MaskRow) -> None:
        row[:] = self._compiled.row(self._done[-1])

    @property
    def is_accepting(self) -> bool:
        return self.is_spent

    @property
    def is_finished(self) -> bool:
        return self._ends > 0

    @property
    def is_spent(self) -> bool:
        return self._done[-1] == len(self._compiled.prefix)

    def fork(self) -> HealingMatcher:
        twin = HealingMatcher(self._compiled)
        twin._token_ids, twin._ends, twin._done = self._token_ids.copy(), self._ends, self._done.copy()
        return twin
