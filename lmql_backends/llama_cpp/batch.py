"""What one `llama_decode` takes, gathered in Python and handed over as arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

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
        depths: list[int] = []
        for parent in branches.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        self.token_ids += branches.token_ids
        self.positions += [start + depth for depth in depths]
        for ids in sequences:
            self.sequence_ids += ids
            self.sequence_counts.append(len(ids))
        self.wanted += [first + offset for offset in branches.wanted]

    def decode(self, c: Any, context: Any) -> int:
        """Run it; what `llama_decode` returns. The GIL is released meanwhile."""
        token_ids = np.array(self.token_ids, dtype=np.int32)
        positions = np.array(self.positions, dtype=np.int32)
        counts = np.array(self.sequence_counts, dtype=np.int32)
        sequence_ids = np.array(self.sequence_ids, dtype=np.int32)
        wanted = np.zeros(len(token_ids), dtype=np.int8)
        wanted[self.wanted] = 1
        starts = np.cumsum(counts, dtype=np.uint64) - counts.astype(np.uint64)
        pointers = starts * np.uint64(sequence_ids.itemsize) + np.uint64(sequence_ids.ctypes.data)
        batch = c.llama_batch(
            n_tokens=len(token_ids),
            token=ctypes.cast(token_ids.ctypes.data, ctypes.POINTER(c.llama_token)),
            embd=None,
            pos=ctypes.cast(positions.ctypes.data, ctypes.POINTER(c.llama_pos)),
            n_seq_id=ctypes.cast(counts.ctypes.data, ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(c.llama_seq_id))),
            logits=ctypes.cast(wanted.ctypes.data, ctypes.POINTER(ctypes.c_int8)),
        )
        return int(c.llama_decode(context, batch))


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
