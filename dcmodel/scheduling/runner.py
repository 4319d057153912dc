"""`SequenceRunner`: whatever runs sequences to their end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from dcmodel.scheduling.sequence import Sequence


class SequenceRunner(ABC):
    """`submit` and `cancel` may be called from any thread. What runs sequences tells their loops of news."""

    @abstractmethod
    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences. Raises `ModelClosedError` or `OverloadedError`."""

    @abstractmethod
    def cancel(self, sequence: Sequence) -> None:
        """End a sequence within one step; nothing happens to one that has ended."""

    @abstractmethod
    def close(self) -> None:
        """Fail whatever is unfinished with `ModelClosedError`. Waits for the step."""
