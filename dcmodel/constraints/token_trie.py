"""A vocabulary's tokens as a trie in arrays, walked along many texts at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraints.sorted_vocabulary import SortedVocabulary

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class TokenTrie:
    """Nodes are numbered from the root, 0, level by level. Immutable."""

    def __init__(self, vocabulary: SortedVocabulary) -> None:
        self._ids = vocabulary.ids
        lengths = vocabulary.lengths
        text = np.frombuffer(b"".join(vocabulary.tokens), dtype=np.uint8)
        starts = np.cumsum(lengths) - lengths
        alive: Ints = np.arange(len(vocabulary), dtype=np.int64)
        nodes: Ints = np.zeros(len(vocabulary), dtype=np.int64)
        ends: Ints = np.zeros(len(vocabulary), dtype=np.int64)
        keys: list[Ints] = []
        count = 1
        for depth in range(vocabulary.longest):
            keep = lengths[alive] > depth
            alive, nodes = alive[keep], nodes[keep]
            # Tokens are sorted and nodes numbered in that order: equal keys stand together, ascending.
            found = nodes * 256 + text[starts[alive] + depth]
            new = _is_first(found)
            keys.append(found[new])
            nodes = np.cumsum(new) - 1 + count
            count += int(new.sum())
            ends[alive] = nodes
        self._keys: Ints = np.concatenate(keys) if keys else np.zeros(0, dtype=np.int64)
        self._by_node: Ints = np.argsort(ends, kind="stable")
        self._first: Ints = np.searchsorted(ends[self._by_node], np.arange(count + 1))

    def children(self, nodes: Ints, following: Bytes) -> Ints:
        """The node that each byte leads to from each node; -1 where there is none."""
        keys = nodes * 256 + following
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        return np.where(self._keys[places] == keys, places + 1, -1) if len(self._keys) else places - 1

    def tokens_at(self, nodes: Ints) -> Ints:
        """The ids of the tokens that end at these nodes."""
        low = self._first[nodes]
        counts = self._first[nodes + 1] - low
        offsets = np.cumsum(counts) - counts
        places = np.repeat(low - offsets, counts) + np.arange(int(counts.sum()))
        return self._ids[self._by_node[places]]

    def tokens_along(self, text: Bytes, starts: Ints, lengths: Ints) -> Ints:
        """The ids of all tokens that any of some texts begins with.

        A text is ``text[start : start + length]``; the texts are sorted.
        """
        nodes: Ints = np.zeros(len(starts), dtype=np.int64)
        visited: list[Ints] = []
        depth = 0
        while True:
            keep = (lengths > depth) & (nodes >= 0)
            starts, lengths, nodes = starts[keep], lengths[keep], nodes[keep]
            if not len(starts):
                break
            following = text[starts + depth]
            new = _is_first(nodes * 256 + following)
            reached = self.children(nodes[new], following[new])
            visited.append(reached[reached >= 0])
            nodes = reached[np.cumsum(new) - 1]
            depth += 1
        return self.tokens_at(np.concatenate(visited)) if visited else np.zeros(0, dtype=np.int64)


def _is_first(keys: Ints) -> NDArray[np.bool_]:
    """Whether each key differs from the one before it."""
    new: NDArray[np.bool_] = np.ones(len(keys), dtype=np.bool_)
    new[1:] = keys[1:] != keys[:-1]
    return new
