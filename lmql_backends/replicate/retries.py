"""When a failed job is tried again. No I/O."""

from __future__ import annotations

from random import Random

from lmql_backends.replicate.failures import AttemptFailed, Kind
from lmql_backends.replicate.settings import Settings


class Retries:
    """The deadline and the budget of one job. Refusals for the rate cost nothing of the budget."""

    def __init__(self, settings: Settings, now: float, rng: Random) -> None:
        self._settings = settings
        self._deadline = now + settings.deadline
        self._rng = rng
        self._left = settings.retries
        self._last_wait = settings.base

    def seconds_left(self, now: float) -> float:
        return max(self._deadline - now, 0.0)

    def progressed(self) -> None:
        """Something was received: what failed before no longer counts."""
        self._left = self._settings.retries
        self._last_wait = self._settings.base

    def wait(self, failure: AttemptFailed, now: float) -> float | None:
        """Seconds until the next try, or None: there is no use in one."""
        if failure.is_permanent:
            return None
        if failure.kind is not Kind.RATE_LIMITED:
            if self._left <= 0:
                return None
            self._left -= 1
        upper = max(self._settings.base, 3.0 * self._last_wait)
        self._last_wait = min(self._settings.cap, self._rng.uniform(self._settings.base, upper))
        wait = self._last_wait
        if failure.retry_after is not None:  # all that were refused together need not come back together
            wait = failure.retry_after + self._rng.uniform(0.0, self._settings.base)
        return wait if now + wait < self._deadline else None
