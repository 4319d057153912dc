"""`SequenceRunner`: whatever runs sequences to their end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from dcmodel.scheduling.sequence import Sequence

T = TypeVar("T")


class AdapterRunner(Protocol):
    """A runner that keeps adapters: what is done with them is done between its steps."""

    def between_steps(self, function: Callable[[], T]) -> Future[T]:
        """Have a function called on the runner's thread. Raises `ModelClosedError`, as the future may."""

    def forget_adapter(self, adapter: int) -> None:
        """The last sequence with this adapter is gone. A finalizer may call it anywhere: it takes no lock."""


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
