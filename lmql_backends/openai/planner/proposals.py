"""From a mask to what an endpoint can be told: a bias, or a list of allowed tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dcmodel.constraint import MaskRow
from dcmodel.errors import MaskNotRepresentableError
from dcmodel.mask import allocate_rows, clear_tail, row_from_ids, row_to_bools
from dcmodel.scheduling.sequence import Sequence
from lmql_backends.openai.capabilities import EndpointCapabilities

LEAST_BIAS = 50.0
"""A smaller bias does not keep a model from a token."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """From which tokens an endpoint draws, and how it is told."""

    bias: Mapping[int, float]
    allowed: tuple[int, ...] | None = None
    row: MaskRow | None = None
    """The tokens that can be drawn; None: all. Draws that a mask refuses are no loss of exactness, as long as
    all that it allows can be drawn."""
    is_partial: bool = False
    """It is knowingly a part of the mask."""
    lifted: tuple[int, ...] = ()
    """Tokens that cannot be drawn, and get their share where a mask allows them (`Lifting`)."""

    @property
    def is_free(self) -> bool:
        """Whether the model's own distribution is drawn from."""
        return not self.bias and self.row is None

    def covers(self, mask: MaskRow | None) -> bool:
        """Whether all that `mask` allows can be drawn, or gets its share."""
        if self.row is None or self.is_partial or self.lifted:
            return True
        return mask is not None and not (mask & ~self.row).any()


def adjustments(sequence: Sequence) -> dict[int, float]:
    """What is added to the logits of some tokens, whatever the mask: the caller's bias, and the penalties of
    the output so far. An endpoint counts only the tokens of its own answer."""
    sampling = sequence.sampling_now
    added = dict(sampling.logit_bias)
    if sampling.presence_penalty or sampling.frequency_penalty:
        counts = Counter(sequence.token_ids[sequence.prompt_length :])
        for token_id, count in counts.items():
            penalty = sampling.presence_penalty + sampling.frequency_penalty * count
            added[token_id] = added.get(token_id, 0.0) - penalty
    return added


class Means:
    """How an endpoint can be kept from tokens."""

    def __init__(self, capabilities: EndpointCapabilities, vocab_size: int) -> None:
        self._limit = capabilities.max_bias_entries
        self._range = capabilities.bias_range
        self._takes_lists = capabilities.allowed_token_ids
        self._vocab_size = vocab_size

    @property
    def most_bans(self) -> int:
        """How many tokens can be banned at once."""
        return self._limit if self._range >= LEAST_BIAS else 0

    def only(self, token_id: int) -> Proposal:
        """A token that will surely be drawn, to see its probability."""
        return Proposal({token_id: self._range})

    def free(self, added: Mapping[int, float]) -> Proposal:
        """No mask. Raises `MaskNotRepresentableError` where not even `added` can be sent."""
        self._check(added)
        return Proposal(added)

    def exactly(self, row: MaskRow, added: Mapping[int, float]) -> Proposal | None:
        """Only what `row` allows; None where that cannot be said."""
        flags = row_to_bools(row, self._vocab_size)
        count = int(flags.sum())
        if self._takes_lists and self._fits(added):
            return Proposal(added, allowed=tuple(np.flatnonzero(flags).tolist()), row=row)
        if count <= self.most_bans:
            ids: list[int] = np.flatnonzero(flags).tolist()
            own = [added.get(token_id, 0.0) for token_id in ids]
            base = self._range - max(*own, 0.0)
            lifted = {token_id: base + more for token_id, more in zip(ids, own, strict=True)}
            if min(lifted.values()) >= LEAST_BIAS:
                return Proposal(lifted, row=row)
        if self._vocab_size - count <= self.most_bans:
            return self.banning(np.flatnonzero(~flags).tolist(), added)
        return None

    def banning(self, ids: Iterable[int], added: Mapping[int, float]) -> Proposal | None:
        """All but `ids`; None where they are too many."""
        banned = dict.fromkeys(ids, -self._range)
        bias = {**added, **banned}
        if len(bias) > self.most_bans:
            return None
        row: MaskRow = allocate_rows(1, self._vocab_size)[0]
        # A model's rows may go past its vocabulary.
        row_from_ids((item for item in banned if item < self._vocab_size), row.shape[0] * 32, row)
        np.invert(row, out=row)
        clear_tail(row, self._vocab_size)
        return Proposal(bias, row=row)

    def _fits(self, added: Mapping[int, float]) -> bool:
        largest = max(map(abs, added.values()), default=0.0)
        return len(added) <= self._limit and largest <= self._range

    def _check(self, added: Mapping[int, float]) -> None:
        if not self._fits(added):
            raise MaskNotRepresentableError(
                f"{len(added)} tokens have a bias or a penalty, and the endpoint takes {self._limit} "
                f"within +-{self._range:g}.",
                remedy="Leave logit_bias and penalties out, or use a model of your own.",
            )
