"""How often a request may be tried, and on whom."""

from __future__ import annotations

from dcmodel.errors import ConnectionLostError, DcModelError, EngineError, ModelClosedError
from lmql_backends.lmtp.balancer.settings import BalancerSettings
from lmql_backends.lmtp.balancer.worker import Flight, Worker


class RetryBudget:
    """Second attempts because of overload are a share of all active requests, so that retries never become
    the load. (Requests that lost their worker are not counted here: they take the place they had.)"""

    def __init__(self, share: float, minimum: int) -> None:
        self._share = share
        self._minimum = minimum
        self.active = 0
        self.retrying = 0

    def take(self) -> bool:
        """Whether one more may be tried again; `give_back` when it has ended."""
        if self.retrying >= max(self._minimum, int(self._share * self.active)):
            return False
        self.retrying += 1
        return True

    def give_back(self, count: int) -> None:
        self.retrying -= count


class Attempts:
    """The history of one request."""

    def __init__(self, settings: BalancerSettings) -> None:
        self._settings = settings
        self._deaths = 0
        self._moves = 0
        self.excluded: set[Worker] = set()
        """Workers that said they were overloaded."""

    def lost(self, flight: Flight, error: DcModelError, *, new_tokens: int = 0) -> DcModelError | None:
        """The worker was lost, after so many tokens that came from it. Returns the error that the request
        fails with, or None: it may go to another worker."""
        if flight.was_moved:
            return None
        if new_tokens >= self._settings.forgiven_tokens:
            self._deaths = self._moves = 0
        self._deaths += 1
        self._moves += 1
        if self._deaths >= self._settings.deadly:
            return EngineError(
                f"{self._deaths} workers were lost while they ran this request; it is not sent to another "
                f"one (the last was {flight.worker.address}: {error.message})",
                remedy="Look into the workers' logs; the same request may well do it again.",
            )
        if self._moves > self._settings.max_migrations:
            return ConnectionLostError(
                f"the request lost its worker {self._moves} times.",
                remedy="Try again later.",
                retry_after=self._settings.retry_after,
            )
        return None


def is_loss(error: BaseException) -> bool:
    """Whether the error is the worker's end, and not the request's fault."""
    return isinstance(error, ConnectionLostError | ModelClosedError | ConnectionError)
