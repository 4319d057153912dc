"""Masks that are begun before vLLM's forward, and wanted after it."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from dcmodel.constraint import Matcher
from dcmodel.scheduling.mask_filler import MaskFiller


class EarlyMasks(MaskFiller):
    """A `MaskFiller` whose `start` finds what `begin` has begun already."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._begun: list[Matcher | None] | None = None

    def begin(self, matchers: Seq[Matcher | None]) -> None:
        """Fill rows for a `start` with the same matchers that will follow, or not."""
        self.drop()
        super().start(matchers)
        self._begun = list(matchers)

    def start(self, matchers: Seq[Matcher | None]) -> None:
        begun = self._begun
        is_same = (
            begun is not None
            and len(begun) == len(matchers)
            and all(left is right for left, right in zip(begun, matchers, strict=True))
        )
        if is_same:
            self._begun = None
            return
        self.drop()
        super().start(matchers)

    def drop(self) -> None:
        """What was begun is not wanted."""
        if self._begun is not None:
            self._begun = None
            self.finish(0)
