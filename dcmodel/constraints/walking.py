"""A base for matchers that move an automaton over the bytes of tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, Self, TypeVar

from dcmodel.constraint import MaskRow
from dcmodel.constraints.plain import PlainMatcher, no_end_token, row_of
from dcmodel.constraints.sorted_vocabulary import RowCache, SortedVocabulary, sorted_vocabulary
from dctokenizers import Tokenizer

S = TypeVar("S")


class TextTokens:
    """What matchers over one vocabulary share: its text tokens, its ends, the masks that were made."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocabulary: SortedVocabulary = sorted_vocabulary(tokenizer)
        self.tokens = tokenizer.all_token_bytes()
        self.special = tokenizer.special_token_ids
        self.end_row = row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)
        self.masks = RowCache(tokenizer.vocab_size)

    def text_of(self, token_id: int) -> bytes:
        """The bytes of a token; none for one that stands for no text."""
        return b"" if token_id in self.special else self.tokens[token_id]

    def mask(self, text: MaskRow, *, accepting: bool) -> MaskRow:
        """The mask of the text tokens in `text`, and the ends where `accepting`. A new row."""
        row = text & ~self.end_row
        return row | self.end_row if accepting else row

    def has_text(self, row: MaskRow) -> bool:
        """Whether a mask allows anything but the ends."""
        return bool((row & ~self.end_row).any())


class WalkingMatcher(PlainMatcher, Generic[S]):
    """Keeps the state before and after each token; states are values that nobody changes."""

    __slots__ = ("_after", "_shared", "_states")

    def __init__(self, shared: TextTokens, start: S) -> None:
        super().__init__(shared.tokenizer)
        self._shared = shared
        self._states: list[S] = [start]
        self._after: S | None = None

    @abstractmethod
    def _moved(self, state: S, text: bytes) -> S | None:
        """The state after some more text; None where it is refused."""

    @abstractmethod
    def _mask(self, state: S) -> MaskRow:
        """The mask of a state, the ends included. Shared: not to be written."""

    def _allows(self, token_id: int) -> bool:
        text = self._shared.text_of(token_id)
        self._after = self._moved(self._states[-1], text) if text else None
        return self._after is not None

    def _pushed(self, token_id: int) -> None:
        assert self._after is not None
        self._states.append(self._after)

    def _popped(self, count: int) -> None:
        del self._states[-count:]

    def _fill(self, row: MaskRow) -> None:
        mask = self._mask(self._states[-1])
        if not self._eos and not mask.any():
            raise no_end_token()
        row[:] = mask

    def _copy_to(self, twin: Self) -> Self:
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        twin._states = self._states.copy()
        return twin
