"""`Place`: what is known of the next token of a text."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcmodel.constraint import MaskRow
from dcmodel.types import TopLogprob
from lmql_backends.openai.planner.masks import allows
from lmql_backends.openai.planner.reading import Rejection


@dataclass(slots=True)
class Place:
    """Grows while tokens are refused there."""

    index: int
    attempts: int = 0
    tops: tuple[TopLogprob, ...] | None = None
    """The likeliest tokens of the model; None: not known."""
    are_raw: bool | None = None
    refused: list[TopLogprob] = field(default_factory=list)
    """Drawn, and not allowed."""
    also_refused: set[int] = field(default_factory=set)
    """Drawn in a biased answer, and not allowed."""
    also_seen: set[int] = field(default_factory=set)
    """Among the likeliest of a biased answer, allowed or not."""
    was_banned: bool = False
    """An answer was asked for without the tokens that were refused."""

    def note(self, rejection: Rejection, *, is_free: bool) -> None:
        """What a refused token tells. `is_free`: the answer was drawn without a bias."""
        if is_free or rejection.are_raw:
            self.refused += rejection.drawn
            if rejection.tops:
                self.tops, self.are_raw = rejection.tops, rejection.are_raw
        else:
            self.also_refused |= {item.token_id for item in rejection.drawn}
            if self.tops is None:
                self.also_seen |= {item.token_id for item in rejection.tops}

    @property
    def drawn_ids(self) -> set[int]:
        """Tokens that were drawn and refused."""
        return {item.token_id for item in self.refused} | self.also_refused

    def forbidden(self, row: MaskRow, vocab_size: int) -> list[int]:
        """Tokens that were seen here, and that `row` does not allow: those that were drawn first."""
        drawn = (*(item.token_id for item in self.refused), *self.also_refused)
        known = dict.fromkeys((*drawn, *(item.token_id for item in self.tops or ()), *self.also_seen))
        return [item for item in known if not allows(row, item, vocab_size)]
