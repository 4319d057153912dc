"""Packed masks, applied to rows of logits."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dcmodel.logits import Bools, Floats, Ints
from dcmodel.mask import BITS, mask_words

# Up to so many tokens per word, a mask's empty words are left out before its bits are unpacked.
SPARSE = 1 / 8
_BYTE = 8


class TokenMasks:
    """The masks of a `SamplePlan`, ``[S, words]`` int32; where words are missing, nothing is allowed."""

    def __init__(self, bitmask: NDArray[np.int32], vocab_size: int) -> None:
        self._words = np.ascontiguousarray(bitmask[:, : mask_words(vocab_size)])
        self._vocab_size = vocab_size

    def allow(self, places: Ints | int, ids: Ints) -> Bools:
        """[n] whether mask ``places[i]`` (or the one) allows token ``ids[i]``."""
        word, width = ids // BITS, self._words.shape[1]
        if not width:
            return np.zeros(len(ids), dtype=np.bool_)
        words = self._words[places, np.minimum(word, width - 1)]
        is_allowed: Bools = ((words >> (ids % BITS)) & 1 == 1) & (word < width)
        return is_allowed

    def counts(self) -> list[int]:
        """[S] how many tokens each mask allows; bits past the vocabulary in its last word may count."""
        counts: list[int] = np.bitwise_count(self._words.view(np.uint32)).sum(axis=1, dtype=np.int64).tolist()
        return counts

    def ids(self, place: int, count: int) -> Ints:
        """The tokens that mask `place` allows, ascending: `count` of them."""
        words = self._words[place]
        ids: Ints
        if count < len(words) * SPARSE:
            used = (words != 0).nonzero()[0]
            bits = _set_bits(words[used])
            ids = used[bits // BITS] * BITS + bits % BITS
        else:
            ids = _set_bits(words)
        return ids[ids < self._vocab_size] if len(ids) and ids[-1] >= self._vocab_size else ids

    def forbidden(self, place: int) -> Ints | None:
        """The tokens that mask `place` forbids, ascending; None where it has too few words to tell."""
        words = self._words[place]
        if len(words) * BITS < self._vocab_size:
            return None
        ids = _set_bits(~words)
        return ids[: np.searchsorted(ids, self._vocab_size)]

    def restrict(self, place: int, values: Floats, out: Floats) -> Floats:
        """`values` [vocab_size], with -inf where mask `place` forbids: a part of `out` (see `padded`)."""
        masks = self._spread(place, _barriers(), -np.inf, out)
        return np.add(values, masks, out=masks)

    def kept_sum(self, place: int, weights: Floats, out: Floats) -> float:
        """The sum of those of `weights` [vocab_size] that mask `place` allows. Uses up `out`."""
        masks = self._spread(place, _gates(), 0.0, out)
        return float(np.multiply(weights, masks, out=masks).sum())

    def _spread(self, place: int, table: Floats, rest: float, out: Floats) -> Floats:
        """One value of the table per token; looking up whole bytes is faster than unpacking bits."""
        mask = self._words[place].view(np.uint8)[: len(out) // _BYTE]
        end = len(mask) * _BYTE
        # Each byte is in the table, so "clip" clips nothing; it spares a copy.
        np.take(table, mask, axis=0, out=out[:end].reshape(-1, _BYTE), mode="clip")
        out[end:] = rest
        return out[: self._vocab_size]


def padded(vocab_size: int) -> int:
    """The vocabulary's size, in whole bytes of a mask."""
    return -(-vocab_size // _BYTE) * _BYTE


def _set_bits(words: NDArray[np.int32]) -> Ints:
    """Where the bits are set, counted through all words."""
    return np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_).nonzero()[0]


@cache
def _gates() -> Floats:
    """[256, 8] the bits of each byte, as 0 and 1."""
    bytes_ = np.arange(256, dtype=np.uint8)[:, None]
    return np.unpackbits(bytes_, axis=1, bitorder="little").astype(np.float32)


@cache
def _barriers() -> Floats:
    """[256, 8] what to add to logits: -inf for a bit that is 0."""
    return np.where(_gates() > 0, 0.0, -np.inf).astype(np.float32)
