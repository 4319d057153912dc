"""The tokens that lie across a border between two parts, found along the sorted vocabulary.

The sorted tokens are a trie: those with a common beginning lie together. The search goes down only where
some token is not allowed yet, and only along bytes that a walker takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import MaskRow, Walker
from dcmodel.constraints.algebra.walkers import ThenWalker, bytes_of
from dcmodel.constraints.sorted_vocabulary import SortedVocabulary
from dcmodel.mask import row_to_bools

MAX_MOVES = 3_000
"""Walker moves for one mask; beyond it, tokens across a border may be missing, but no text is."""

States = Sequence[tuple[int, Walker]]


def crossing_tokens(
    vocabulary: SortedVocabulary, row: MaskRow, states: States, begin: Sequence[Callable[[], Walker]]
) -> list[int]:
    """Tokens that `row` does not allow yet and that the parts in `states`, and those after them, take."""
    if not states:
        return []
    missing = ~row_to_bools(row, vocabulary.vocab_size)[vocabulary.ids]
    if not missing.any():
        return []
    return _Search(vocabulary, missing).down(ThenWalker(begin, states))


class _Search:
    def __init__(self, vocabulary: SortedVocabulary, missing: NDArray[np.bool_]) -> None:
        self.vocabulary = vocabulary
        self.texts = vocabulary.tokens
        self.ids = vocabulary.ids
        self.missing = np.concatenate([[0], np.cumsum(missing)])
        """Number of missing tokens before each place."""
        self.moves = MAX_MOVES
        self.found: list[int] = []

    def down(self, walker: ThenWalker) -> list[int]:
        stack: list[tuple[ThenWalker, bytes]] = [(walker, b"")]
        while stack:
            here, prefix = stack.pop()
            for byte in bytes_of(here.following()):
                longer = prefix + bytes([byte])
                first, end = self.vocabulary.beginning_with(longer)
                if self.missing[first] == self.missing[end]:
                    continue
                self.moves -= 1
                if self.moves < 0:
                    return self.found
                twin = here.fork()
                if twin.step(byte):
                    inner = self._take(longer, first, end)
                    if inner < end:
                        stack.append((twin, longer))
        return self.found

    def _take(self, text: bytes, first: int, end: int) -> int:
        """Note the tokens that are `text` itself; where the longer ones begin."""
        while first < end and self.texts[first] == text:
            if self.missing[first] < self.missing[first + 1]:
                self.found.append(int(self.ids[first]))
            first += 1
        return first
