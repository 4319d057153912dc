"""Trees of tokens behind the end of a sequence: what each of them may look at.

Keys and values of branches are used in the layer that computes them and never enter the KV store: they need
no room, and nothing is left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcmodel.engine import Branches
from dcmodel.logits import Bools, Ints
from lmql_backends.transformers.kv_segment import Segment


@dataclass(slots=True)
class BranchBlock:
    """Consecutive tokens of a tree that are attended together."""

    rows: slice
    """Which tokens of the tree."""
    low: int
    """The first token of the sequence that is read."""
    past_mask: Tensor | None
    """What to add to the scores over the tokens ``low .. end - 1`` of the sequence; None: nothing."""
    own: slice | Tensor
    """Which tokens of the tree are read: those of the block and their ancestors."""
    own_mask: Tensor
    """What to add to the scores over those."""


@dataclass(slots=True)
class PlacedBranches:
    """The branches of a span, and where the sequence lies that they grow behind."""

    index: int
    """The span's place in the batch."""
    segment: Segment
    slot: int
    end: int
    """How many tokens the sequence has, those of its own span included."""
    depths: Ints
    """Of each token; 0 behind the end of the sequence."""
    sees: Bools
    """``[tokens, tokens]``: which tokens of its tree (rows) each token looks at: its ancestors and itself."""
    row: int = 0
    """Its first row in packed order."""
    _blocks: dict[tuple[int, int, int], list[BranchBlock]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.depths)

    @property
    def positions(self) -> Ints:
        return self.end + self.depths

    def blocks(self, size: int, window: int, copies: int, like: Tensor) -> list[BranchBlock]:
        """The tree in blocks of `size` tokens, with masks that are repeated for `copies` query heads.

        `window`: sliding window in tokens, 0 for none. They are made once and shared by all layers.
        """
        key = (size, window, copies)
        if key not in self._blocks:
            self._blocks[key] = [
                self._block(slice(first, min(first + size, self.count)), window, copies, like)
                for first in range(0, self.count, size)
            ]
        return self._blocks[key]

    def _block(self, rows: slice, window: int, copies: int, like: Tensor) -> BranchBlock:
        depths, sees = self.depths[rows], self.sees[rows]
        # Depth first, few tokens before the block are ancestors of any in it.
        own = np.flatnonzero(sees.any(axis=0))
        visible = sees[:, own]
        low = 0
        past_mask: Tensor | None = None
        if window:
            visible = visible & (depths[:, None] - self.depths[own] < window)
            low = min(self.end, max(0, self.end + int(depths.min()) - window + 1))
            in_window = (self.end + depths)[:, None] - np.arange(low, self.end) < window
            if not in_window.all():
                past_mask = _additive(in_window, copies, like)
        return BranchBlock(
            rows=rows,
            low=low,
            past_mask=past_mask,
            own=_slice_or_index(own, like.device),
            own_mask=_additive(visible, copies, like),
        )


def depths_and_sight(branches: Branches) -> tuple[Ints, Bools]:
    """`PlacedBranches.depths` and `PlacedBranches.sees`. Raises `EngineError` where these are no trees."""
    return np.array(branches.depths(), dtype=np.int64), _sight(branches.parents)


def _sight(parents: Sequence[int]) -> Bools:
    sees = np.zeros((len(parents), len(parents)), dtype=np.bool_)
    for place, parent in enumerate(parents):
        if parent >= 0:
            sees[place] = sees[parent]
        sees[place, place] = True
    return sees


def _additive(visible: Bools, copies: int, like: Tensor) -> Tensor:
    """``[copies * rows, columns]``: 0 where a query may look, -inf elsewhere."""
    mask: NDArray[np.float32] = np.where(visible, np.float32(0), np.float32(-np.inf))
    return torch.from_numpy(mask).to(like.device, like.dtype).repeat(copies, 1)


def _slice_or_index(places: Ints, device: torch.device) -> slice | Tensor:
    """Consecutive places as a slice: a view instead of a copy."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places):
        return slice(first, last + 1)
    return torch.from_numpy(places).to(device)
