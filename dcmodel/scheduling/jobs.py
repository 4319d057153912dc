"""`Job`: what another thread asks the scheduler's thread to do between two steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Job(Generic[T]):
    """A function and the future of its result, which always comes: either `run` or `fail` is called."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.future: Future[T] = Future()

    def run(self) -> None:
        """Call the function, unless the future was cancelled; its error goes to the future."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """It will never run."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
