"""A vocabulary's text tokens in the order of their bytes: what masks are made of without an engine."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import MaskRow
from dcmodel.mask import mask_words
from dctokenizers import Tokenizer, Vocabulary

Positions = NDArray[np.int64]
T = TypeVar("T")


class SortedVocabulary:
    """The tokens that stand for text, sorted by their bytes. Immutable, shared between threads.

    Special tokens and ids without bytes are left out; ids with equal bytes stand side by side.
    A *position* is a place in this order, an *id* the vocabulary's own number.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        special = vocabulary.special_token_ids
        tokens = vocabulary.tokens
        # Bit by bit: one sort of 200,000 tokens would keep all other threads waiting for 0.3 s.
        parts: dict[bytes, list[int]] = {}
        for token_id, token in enumerate(tokens):
            if token and token_id not in special:
                parts.setdefault(token[:2], []).append(token_id)
        order = [i for head in sorted(parts) for i in sorted(parts[head], key=tokens.__getitem__)]
        self.vocab_size = len(tokens)
        self.tokens = [tokens[i] for i in order]
        self.ids: NDArray[np.int64] = np.array(order, dtype=np.int64)
        self._lock = threading.RLock()  # what is derived may need other things that are
        self._derived: dict[Hashable, object] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def beginning_with(self, prefix: bytes) -> tuple[int, int]:
        """The positions ``[low, high)`` of the tokens that begin with `prefix`."""
        tokens = self.tokens
        low = bisect_left(tokens, prefix)
        if low == len(tokens) or not tokens[low].startswith(prefix):
            return low, low
        stem = prefix.rstrip(b"\xff")
        if not stem:
            return low, len(tokens)
        return low, bisect_left(tokens, stem[:-1] + bytes([stem[-1] + 1]), low)

    def between(self, low: bytes, high: bytes) -> tuple[int, int]:
        """The positions of the tokens from `low` on, and before `high`."""
        return bisect_left(self.tokens, low), bisect_left(self.tokens, high)

    def row(self, positions: Positions) -> MaskRow:
        """A new row that allows exactly the tokens at `positions`."""
        flags = np.zeros(mask_words(self.vocab_size) * 32, dtype=np.uint8)
        flags[self.ids[positions]] = 1
        return np.packbits(flags, bitorder="little").view(np.int32)

    @cached_property
    def text_row(self) -> MaskRow:
        """The row that allows every text token. Read-only."""
        row = self.row(np.arange(len(self), dtype=np.int64))
        row.flags.writeable = False
        return row

    @cached_property
    def ids_of(self) -> dict[bytes, list[int]]:
        """The ids of each token's bytes."""
        found: dict[bytes, list[int]] = {}
        for token, token_id in zip(self.tokens, self.ids.tolist(), strict=True):
            found.setdefault(token, []).append(token_id)
        return found

    @cached_property
    def single_bytes(self) -> bytes:
        """The bytes that are tokens by themselves."""
        ranges = ((byte, *self.beginning_with(bytes((byte,)))) for byte in range(256))
        return bytes(byte for byte, low, high in ranges if low < high and len(self.tokens[low]) == 1)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The number of bytes of each token, by position."""
        return np.fromiter(map(len, self.tokens), dtype=np.int64, count=len(self))

    @cached_property
    def longest(self) -> int:
        """The number of bytes of the longest token."""
        return int(self.lengths.max(initial=0))

    @cached_property
    def _text(self) -> NDArray[np.uint8]:
        return np.frombuffer(b"".join(self.tokens), dtype=np.uint8)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths) - self.lengths

    def columns(self, positions: Positions) -> tuple[Positions, list[NDArray[np.uint8]]]:
        """The positions with the longest tokens first, and the tokens' first bytes, second bytes, ...

        A column has as many bytes as there are tokens of that length: those of the first ones.
        """
        lengths = self.lengths[positions]
        longest_first = np.argsort(-lengths, kind="stable")
        order = positions[longest_first]
        starts = self._starts[order]
        places = np.arange(lengths.max(initial=0))
        counts = np.searchsorted(-lengths[longest_first], -places, side="left").tolist()
        return order, [self._text[starts[:count] + place] for place, count in enumerate(counts)]

    @cached_property
    def all_columns(self) -> tuple[Positions, list[NDArray[np.uint8]]]:
        """The `columns` of all tokens."""
        return self.columns(np.arange(len(self), dtype=np.int64))

    def derive(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once for each `key` and kept as long as the vocabulary."""
        with self._lock:
            if key not in self._derived:
                self._derived[key] = make()
            return self._derived[key]  # type: ignore[return-value]  # a key belongs to one type


class _Shared:
    """One `SortedVocabulary` for each `Vocabulary` that is alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: WeakKeyDictionary[Vocabulary, SortedVocabulary] = WeakKeyDictionary()

    def get(self, vocabulary: Vocabulary) -> SortedVocabulary:
        with self._lock:
            made = self._made.get(vocabulary)
            if made is None:
                made = self._made[vocabulary] = SortedVocabulary(vocabulary)
            return made


_SHARED = _Shared()


def sorted_vocabulary(tokenizer: Tokenizer) -> SortedVocabulary:
    """The sorted form of a tokenizer's vocabulary: made once, in tenths of a second for 200,000 tokens."""
    return _SHARED.get(tokenizer.vocabulary)


class RowCache:
    """Rows by state, as many as fit a number of bytes; the oldest are dropped. Any thread may call."""

    MAX_BYTES = 32 << 20

    def __init__(self, vocab_size: int) -> None:
        self._capacity = max(self.MAX_BYTES // (mask_words(vocab_size) * 4), 16)
        self._lock = threading.Lock()
        self._rows: dict[Hashable, MaskRow] = {}
        self.get = self._rows.get

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: Hashable, row: MaskRow) -> None:
        """Keep a row, which is never written again."""
        row.flags.writeable = False
        with self._lock:
            while len(self._rows) >= self._capacity:
                del self._rows[next(iter(self._rows))]
            self._rows[key] = row
