"""Packed masks, applied to rows of logits."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dcmodel.logits import Bools, Floats, Ints
from dcmodel.mask import BITS, mask_words

_BYTE = 8


class TokenMasks:
    """The masks of a `SamplePlan`, ``[S, words]`` int32; where words are missing, nothing is allowed."""

    def __init__(self, bitmask: NDArray[np.int32], vocab_size: int) -> None:
        self._words = np.ascontiguousarray(bitmask[:, : mask_words(vocab_size)])
        self._vocab_size = vocab_size

    def allow(self, ids: Ints) -> Bools:
        """[S] whether each mask allows one token: ``ids[i]`` that of row i."""
        word = ids // BITS
        width = self._words.shape[1]
        if not width:
            return np.zeros(len(ids), dtype=np.bool_)
        words = self._words[np.arange(len(ids)), np.minimum(word, width - 1)]
        is_allowed: Bools = ((words >> (ids % BITS)) & 1 == 1) & (word < width)
        return is_allowed

    def counts(self) -> Ints:
        """[S] how many tokens each mask allows; bits past the vocabulary in its last word may count."""
        counts: Ints = np.bitwise_count(self._words).sum(axis=1, dtype=np.int64)
        return counts

    def ids(self, place: int) -> Ints:
        """The tokens that mask `place` allows, ascending. For masks that allow few."""
        words = self._words[place]
        used = np.flatnonzero(words != 0)
        bits = np.unpackbits(words[used].view(np.uint8), bitorder="little").view(np.bool_)
        places = np.flatnonzero(bits)
        ids: Ints = used[places // BITS] * BITS + places % BITS
        return ids[ids < self._vocab_size] if len(ids) and ids[-1] >= self._vocab_size else ids

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


@cache
def _gates() -> Floats:
    """[256, 8] the bits of each byte, as 0 and 1."""
    bytes_ = np.arange(256, dtype=np.uint8)[:, None]
    return np.unpackbits(bytes_, axis=1, bitorder="little").astype(np.float32)


@cache
def _barriers() -> Floats:
    """[256, 8] what to add to logits: -inf for a bit that is 0."""
    return np.where(_gates() > 0, 0.0, -np.inf).astype(np.float32)
