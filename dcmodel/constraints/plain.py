"""A base for matchers whose rule is about tokens, and which need no engine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dcmodel.constraint import Explanation, MaskRow, Matcher, Walker
from dcmodel.constraints.explain import explain_from_mask, join_bytes
from dcmodel.errors import DeadEndError
from dcmodel.mask import mask_words, row_from_ids
from dctokenizers import Tokenizer


class PlainMatcher(Matcher):
    """Keeps the accepted tokens and counts the ends after them; subclasses say what is allowed.

    After an end-of-sequence token only further ones are allowed.
    """

    __slots__ = ("_ends", "_eos", "_token_ids", "_tokenizer", "_vocab_size", "_words")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._eos = tokenizer.eos_token_ids
        self._vocab_size = tokenizer.vocab_size
        self._words = mask_words(tokenizer.vocab_size)
        self._token_ids: list[int] = []
        self._ends = 0

    @abstractmethod
    def _allows(self, token_id: int) -> bool:
        """Whether a token, not an end-of-sequence token, is allowed now."""

    @abstractmethod
    def _fill(self, row: MaskRow) -> None:
        """Write the mask into a row of exactly `mask_words` words; the text has not ended."""

    def _pushed(self, token_id: int) -> None:
        """The token was accepted and is the last of `_token_ids`."""

    def _popped(self, count: int) -> None:
        """The last `count` tokens were taken back."""

    def fill_mask(self, row: MaskRow) -> None:
        words = self._words
        if row.shape[0] != words:
            if row.shape[0] < words:
                raise ValueError(f"a mask row needs {words} int32 words, not {row.shape}")
            row[words:] = 0
            row = row[:words]
        if not self._ends:
            self._fill(row)
        elif self._eos:
            row[:] = row_of(self._eos, self._vocab_size)
        else:
            raise no_end_token()

    def advance(self, token_ids: Sequence[int]) -> int:
        taken = 0
        for token_id in token_ids:
            if token_id in self._eos:
                if not self.is_accepting:
                    break
                self._ends += 1
            elif self._ends or not 0 <= token_id < self._vocab_size or not self._allows(token_id):
                break
            else:
                self._token_ids.append(token_id)
                self._pushed(token_id)
            taken += 1
        return taken

    def rollback(self, count: int) -> None:
        if not 0 <= count <= len(self._token_ids) + self._ends:
            raise ValueError(f"cannot take back {count} of {len(self._token_ids) + self._ends} tokens")
        ends = min(count, self._ends)
        self._ends -= ends
        if count > ends:
            del self._token_ids[ends - count :]
            self._popped(count - ends)

    def forced(self) -> list[int]:
        return []

    def explain(self, token_id: int) -> Explanation:
        detail = "The text has ended." if self._ends else ""
        text = join_bytes(self._tokenizer, self._token_ids)
        walker = self._walker_maker()
        return explain_from_mask(self, self._tokenizer, token_id, text, detail=detail, walker=walker)

    def _walker_maker(self) -> Callable[[], Walker] | None:
        """What makes a walker at the beginning, for explanations in characters and not in tokens."""
        return None


def row_of(token_ids: Iterable[int], vocab_size: int) -> MaskRow:
    """A new row that allows exactly these tokens."""
    row = np.zeros(mask_words(vocab_size), dtype=np.int32)
    row_from_ids(token_ids, vocab_size, row)
    return row


def no_end_token() -> DeadEndError:
    """The text is complete, and the vocabulary has nothing to end it with."""
    return DeadEndError(
        "the text is complete, and the tokenizer has no end-of-sequence token.",
        remedy="Stop where the matcher is finished, or give one with `tokenizer.with_eos`.",
    )
