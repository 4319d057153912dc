"""Packed masks on logit rows: as numbers to add, or as the few ids that they allow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcmodel.logits import Bools, Ints

WORD = 32
# Where fewer than one word in this many has a bit, only those words are unpacked.
SPARSE = 4


def few_of(vocab_size: int) -> int:
    """Rows with at most this many allowed tokens are drawn from those alone."""
    return max(1024, vocab_size // 64)


def count_allowed(bitmask: NDArray[np.int32]) -> Ints:
    """[S] set bits per row (bits past the vocabulary included)."""
    counts: Ints = np.bitwise_count(bitmask.view(np.uint32)).sum(axis=1, dtype=np.int64)
    return counts


def allowed_ids(bitmask: NDArray[np.int32], vocab_size: int) -> tuple[Ints, Bools]:
    """The allowed ids of each row, ascending, ``[S, most]`` with `most` at least 1, and which are real."""
    size, words = bitmask.shape
    if size == 1:
        return _one_row(set_bits(bitmask[0]), vocab_size)
    rows, ids = np.divmod(set_bits(bitmask.reshape(-1)), words * WORD)
    if words * WORD > vocab_size:
        inside = ids < vocab_size
        rows, ids = rows[inside], ids[inside]
    counts = np.bincount(rows, minlength=size)
    is_real: Bools = np.arange(max(1, int(counts.max(initial=0)))) < counts[:, None]
    padded = np.zeros(is_real.shape, dtype=np.int64)
    padded[is_real] = ids
    return padded, is_real


def _one_row(ids: Ints, vocab_size: int) -> tuple[Ints, Bools]:
    if ids.size and ids[-1] >= vocab_size:
        ids = ids[ids < vocab_size]
    if not ids.size:
        return np.zeros((1, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.bool_)
    return ids[None], np.ones((1, ids.size), dtype=np.bool_)


def set_bits(words: NDArray[np.int32]) -> Ints:
    """Where the bits of packed words are set, ascending."""
    (used,) = (words != 0).nonzero()
    if len(used) * SPARSE < len(words):
        inside = _places(words[used])
        places: Ints = used[inside >> 5] * WORD + (inside & 31)
        return places
    return _places(words)


def _places(words: NDArray[np.int32]) -> Ints:
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    # Of booleans, numpy finds the true ones ten times as fast as of bytes those that are not 0.
    places: Ints = bits.view(np.bool_).nonzero()[0]
    return places


def fitted(bitmask: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """The masks with as many words as rows of `width` logits have; missing bits are 0."""
    words = width // WORD
    if bitmask.shape[1] == words:
        return bitmask
    result = np.zeros((bitmask.shape[0], words), dtype=np.int32)
    result[:, : bitmask.shape[1]] = bitmask[:, :words]
    return result


class MaskAdder:
    """Turns packed masks into rows of 0 and -inf."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        allowed = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._rows = np.where(allowed, np.float32(0), np.float32(-np.inf))
        self._shifts = torch.arange(32, dtype=torch.int32, device=device)

    def fill(self, bitmask: NDArray[np.int32], is_masked: Bools, out: Tensor) -> None:
        """Write ``[S, width]`` numbers to add into `out`; -inf past the words of the masks."""
        words = fitted(bitmask, out.shape[1])
        if not is_masked.all():
            words = np.where(is_masked[:, None], words, np.int32(-1))
        if self._device.type == "cpu":
            # One table row of 8 numbers per byte: several times as fast as any shifting.
            places = np.ascontiguousarray(words).view(np.uint8).reshape(-1).astype(np.intp)
            np.take(self._rows, places, axis=0, out=out.numpy().reshape(-1, 8), mode="clip")
            return
        packed = torch.from_numpy(words).to(self._device, non_blocking=True)
        bits = (packed.unsqueeze(-1) >> self._shifts) & 1
        out.zero_().masked_fill_(bits.flatten(1) == 0, float("-inf"))
