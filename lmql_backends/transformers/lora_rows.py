"""Which adapter computes which row of a forward, and which columns of a layer's adapters that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Layout:
    """How the adapters of a layer lie side by side; shared by all layers where they lie alike."""

    def __init__(self, ranks: Sequence[tuple[int, int]], device: torch.device) -> None:
        """`ranks`: (handle, rank) of each adapter, in their order."""
        self.places: dict[int, slice] = {}
        end = 0
        for handle, rank in ranks:
            self.places[handle] = slice(end, end + rank)
            end += rank
        owners = [handle for handle, rank in ranks for _ in range(rank)]
        self.owners = torch.tensor(owners, dtype=torch.long, device=device)


@dataclass(frozen=True, slots=True)
class Columns:
    """What of a layout a forward needs."""

    span: slice
    others: Tensor | None
    """``[rows, columns]``: which columns are another adapter's; None: none are."""


class AdapterRows:
    """The adapter of each row of one forward."""

    def __init__(self, adapters: Sequence[int] | int, device: torch.device) -> None:
        """`adapters`: one handle per row, or one for all rows, however many there are."""
        self._handles = {adapters} if isinstance(adapters, int) else set(adapters)
        self._by_row = (
            None
            if isinstance(adapters, int) or len(self._handles) == 1
            else torch.tensor(adapters, dtype=torch.long, device=device)
        )
        self._columns: dict[Layout, Columns | None] = {}

    def columns(self, layout: Layout) -> Columns | None:
        """None where no row has an adapter of this layout."""
        if layout not in self._columns:
            self._columns[layout] = self._find(layout)
        return self._columns[layout]

    def _find(self, layout: Layout) -> Columns | None:
        places = [layout.places[handle] for handle in self._handles if handle in layout.places]
        if not places:
            return None
        span = slice(min(place.start for place in places), max(place.stop for place in places))
        if self._by_row is None:
            return Columns(span, None)
        owners = layout.owners[span]
        return Columns(span, self._by_row.to(owners.device).unsqueeze(1) != owners)
