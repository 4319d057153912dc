"""Questions about a row of a mask, of ids that may be past the vocabulary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import MaskRow
from dcmodel.mask import row_allows, row_to_bools


def allows(row: MaskRow, token_id: int, vocab_size: int) -> bool:
    """Also of ids past the vocabulary, as a model's rows may have them."""
    return token_id < vocab_size and row_allows(row, token_id)


def not_allowed(row: MaskRow, ids: NDArray[np.int64], vocab_size: int) -> list[int]:
    """Those of `ids` (of the vocabulary) that `row` does not allow, in their order."""
    kept: list[int] = ids[~row_to_bools(row, vocab_size)[ids]].tolist()
    return kept
