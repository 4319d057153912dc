"""What one `llama_decode` takes, gathered in Python and handed over as arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmodel.engine import Branches


class DecodeBatch:
    """Tokens with their positions, the sequences that each belongs to, and whether its logits are wanted."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[int] = []
        self.sequence_ids: list[int] = []
        """Those of all tokens, one after the other."""
        self.sequence_counts: list[int] = []
        self.wanted: list[int] = []
        """Places of tokens, ascending."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    def add_run(
        self, token_ids: Sequence[int], start: int, sequences: Sequence[int], wanted: Iterable[int]
    ) -> None:
        """Consecutive tokens from position `start`, each of them in all of `sequences`."""
        first, count = len(self.token_ids), len(token_ids)
        self.token_ids += token_ids
        self.positions += range(start, start + count)
        self.sequence_ids += list(sequences) * count
        self.sequence_counts += [len(sequences)] * count
        self.wanted += [first + offset for offset in wanted]

    def add_tree(self, branches: Branches, start: int, sequences: Sequence[Sequence[int]]) -> None:
        """The tokens of trees whose roots have position `start`, each in its own `sequences`."""
        first = len(self.token_ids)
        self.token_ids += branches.token_ids
        self.positions += [start + depth for depth in branches.depths()]
        for ids in sequences:
            self.sequence_ids += ids
            self.sequence_counts.append(len(ids))
        self.wanted += [first + offset for offset in branches.wanted]


class BatchBuffers:
    """The arrays that `llama_decode` reads, kept between calls."""

    def __init__(self, c: Any, max_tokens: int) -> None:
        self._c = c
        self._token_ids = np.zeros(max_tokens, dtype=np.int32)
        self._positions = np.zeros(max_tokens, dtype=np.int32)
        self._counts = np.zeros(max_tokens, dtype=np.int32)
        self._wanted = np.zeros(max_tokens, dtype=np.int8)
        self._pointers = np.zeros(max_tokens, dtype=np.uint64)
        self._batch = c.llama_batch(
            token=_pointer(self._token_ids, c.llama_token),
            embd=None,
            pos=_pointer(self._positions, c.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._pointers, ctypes.POINTER(c.llama_seq_id)),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )
        self._make_room(max_tokens)

    def decode(self, batch: DecodeBatch, context: Any) -> int:
        """Run it; what `llama_decode` returns. The GIL is released meanwhile."""
        count, total = batch.num_tokens, len(batch.sequence_ids)
        if total > len(self._sequence_ids):
            self._make_room(2 * total)
        self._token_ids[:count] = batch.token_ids
        self._positions[:count] = batch.positions
        self._sequence_ids[:total] = batch.sequence_ids
        self._counts[:count] = batch.sequence_counts
        if total == count:  # one sequence each
            self._pointers[:count] = self._places[:count]
        else:
            ends = np.cumsum(self._counts[:count])
            self._pointers[:count] = self._places[ends - self._counts[:count]]
        self._wanted[:count] = 0
        self._wanted[batch.wanted] = 1
        self._batch.n_tokens = count
        return int(self._c.llama_decode(context, self._batch))

    def _make_room(self, count: int) -> None:
        """For the ids of sequences, and where each lies in memory."""
        self._sequence_ids = np.zeros(count, dtype=np.int32)
        steps = np.arange(count, dtype=np.uint64) * np.uint64(self._sequence_ids.itemsize)
        self._places = steps + np.uint64(self._sequence_ids.ctypes.data)


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def leaf_sequences(parents: Sequence[int], leaves: Sequence[int]) -> list[list[int]]:
    """For each token of trees (depth first), the ids of the leaves at or below it.

    A leaf takes one of `leaves`, of which there are enough. llama.cpp has no trees: a token that several
    continue belongs to all of their sequences.
    """
    below: list[list[int]] = [[] for _ in parents]
    free = len(leaves)
    for place in range(len(parents) - 1, -1, -1):
        if not below[place]:
            free -= 1
            below[place] = [leaves[free]]
        if parents[place] >= 0:
            below[parents[place]] += below[place]
    return below


def count_leaves(parents: Sequence[int]) -> int:
    """How many tokens of trees nothing stands behind."""
    return len(parents) - len({parent for parent in parents if parent >= 0})
