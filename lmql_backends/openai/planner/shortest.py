"""`ShortestTokens`: a part of a mask from which every allowed text can still begin."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import MaskRow
from dcmodel.mask import allocate_rows, row_from_ids, row_to_ids
from dctokenizers import Tokenizer

NO_BYTES = 1 << 20


def _kind(byte: int) -> int:
    if byte >= 128:
        return 5 if byte < 256 else 6
    text = chr(byte)
    return (text.isdigit(), text.islower(), text.isupper(), text.isspace(), True).index(True)


KINDS = np.array([_kind(byte) for byte in range(257)])
"""Of first bytes; the last one is of tokens without any."""


class ShortestTokens:
    """Of one vocabulary. A part holds, for each byte with which an allowed text may go on, a shortest token
    that begins with it: where single bytes are tokens, no allowed text is out of reach."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def part(self, row: MaskRow, count: int, *, first: frozenset[int] = frozenset()) -> MaskRow | None:
        """At most `count` of the tokens that `row` allows: special ones, one for each first byte, those of
        `first`, then the shortest. None where not even the special ones and the first bytes fit."""
        ids = row_to_ids(row, self._tokenizer.vocab_size)
        ids = ids[np.argsort(self._lengths[ids], kind="stable")]
        ranks = self._lengths[ids] + 2
        ranks[np.isin(ids, list(first))] = 1
        ranks[np.isin(ids, self._special)] = 0
        has_bytes = np.flatnonzero(self._lengths[ids] < NO_BYTES)
        ranks[has_bytes[np.unique(self._first_bytes[ids[has_bytes]], return_index=True)[1]]] = 0
        if int((ranks == 0).sum()) > count:
            return None
        kept = ids[np.argsort(ranks, kind="stable")[:count]]
        part: MaskRow = allocate_rows(1, self._tokenizer.vocab_size)[0]
        row_from_ids(kept.tolist(), part.shape[0] * 32, part)
        return part

    def like(self, token_ids: list[int]) -> NDArray[np.int64]:
        """Tokens that begin as one of these: with a digit, a small letter, a space ... The shortest first."""
        kinds = np.unique(KINDS[self._first_bytes[token_ids]])
        ids = np.flatnonzero(np.isin(KINDS[self._first_bytes], kinds))
        return ids[np.argsort(self._lengths[ids], kind="stable")]

    @cached_property
    def _special(self) -> list[int]:
        return sorted({*self._tokenizer.eos_token_ids, *self._tokenizer.special_token_ids})

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        texts = self._tokenizer.all_token_bytes()
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return np.where(lengths > 0, lengths, NO_BYTES)

    @cached_property
    def _first_bytes(self) -> NDArray[np.int64]:
        texts = self._tokenizer.all_token_bytes()
        return np.fromiter((data[0] if data else 256 for data in texts), dtype=np.int64, count=len(texts))
