"""Packed masks on logit rows: as numbers to add, or as the few ids that they allow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcmodel.logits import Bools, Ints


def few_of(vocab_size: int) -> int:
    """Rows with at most this many allowed tokens are drawn from those alone."""
    return max(1024, vocab_size // 64)


def count_allowed(bitmask: NDArray[np.int32]) -> Ints:
    """[S] set bits per row (bits past the vocabulary included)."""
    counts: Ints = np.bitwise_count(bitmask.view(np.uint32)).sum(axis=1, dtype=np.int64)
    return counts


def allowed_ids(bitmask: NDArray[np.int32], vocab_size: int) -> tuple[Ints, Bools]:
    """The allowed ids of each row, ascending, ``[S, most]`` with `most` at least 1, and which are real."""
    found = [set_bits(words, vocab_size) for words in bitmask]
    counts = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
    padded = np.zeros((len(found), max(1, int(counts.max(initial=0)))), dtype=np.int64)
    for row, ids in zip(padded, found, strict=True):
        row[: len(ids)] = ids
    return padded, np.arange(padded.shape[1]) < counts[:, None]


def set_bits(words: NDArray[np.int32], limit: int) -> Ints:
    """Where the bits of packed words are set, ascending and below `limit`."""
    bits = np.unpackbits(words.view(np.uint8), count=limit, bitorder="little")
    # Of booleans, numpy finds the true ones ten times as fast as of bytes those that are not 0.
    places: Ints = np.flatnonzero(bits.view(np.bool_))
    return places


class MaskAdder:
    """Turns packed masks into rows of 0 and -inf."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        allowed = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        table = np.where(allowed, np.float32(0), np.float32(-np.inf))
        self._table = torch.from_numpy(table).to(device)
        self._shifts = torch.arange(32, dtype=torch.int32, device=device)

    def fill(self, bitmask: NDArray[np.int32], is_masked: Bools, out: Tensor) -> None:
        """Write ``[S, width]`` numbers to add into `out`; -inf past the words of the masks."""
        width = out.shape[1]
        words = np.zeros((bitmask.shape[0], width // 32), dtype=np.int32)
        shared = min(words.shape[1], bitmask.shape[1])
        words[:, :shared] = bitmask[:, :shared]
        words[~is_masked] = -1
        if self._device.type == "cpu":
            # One table row of 8 numbers per byte: several times as fast as any shifting.
            places = torch.from_numpy(words.view(np.uint8).astype(np.int32)).flatten()
            torch.index_select(self._table, 0, places, out=out.view(-1, 8))
            return
        packed = torch.from_numpy(words).to(self._device, non_blocking=True)
        bits = (packed.unsqueeze(-1) >> self._shifts) & 1
        out.zero_().masked_fill_(bits.flatten(1) == 0, float("-inf"))
