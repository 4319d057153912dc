"""When a failed job is tried again. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from lmql_backends.openai.transport.failures import AttemptFailed, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A job has a deadline and a budget of failures. Refusals for its rate cost nothing: the gate waits."""

    deadline: float = 600.0
    """Seconds from the beginning of a job to its end, waiting included."""
    budget: int = 8
    """How many failures of the server or of the connection one job bears."""
    base: float = 0.25
    cap: float = 20.0
    """Seconds: waits lie between them, each at most three times the last one (decorrelated jitter)."""
    request_seconds: float = 120.0
    """One request's time; it doubles with each timeout, lest a slow server be asked ever again."""
    stall_seconds: float = 60.0
    """How long a stream may be silent; pings count as silence."""
    unreached_cost: int = 3
    """What a failed connection costs of the budget, where the endpoint never answered anything."""


class Retries:
    """The budget of one job."""

    def __init__(self, policy: RetryPolicy, deadline: float, rng: Random) -> None:
        """`deadline`: on the clock of `now`."""
        self._policy = policy
        self._deadline = deadline
        self._rng = rng
        self._left = policy.budget
        self._last_wait = policy.base
        self._timeouts = 0

    def seconds(self, now: float) -> float:
        """What the next request may take."""
        own = self._policy.request_seconds * 2.0 ** min(self._timeouts, 16)
        return max(min(own, self._deadline - now), 0.001)

    def progressed(self) -> None:
        """Something was received: what failed before no longer counts."""
        self._left = self._policy.budget
        self._last_wait = self._policy.base

    def wait(self, failure: AttemptFailed, now: float, *, has_answered: bool) -> float | None:
        """Seconds to wait before the next try, or None: there is no use in one.

        After a refusal for the rate it is 0: the gate holds everybody back.
        """
        if failure.is_permanent or now >= self._deadline:
            return None
        asked = failure.retry_after or 0.0
        if now + asked > self._deadline:
            return None
        if failure.kind is Kind.RATE_LIMITED:
            return 0.0
        self._left -= self._cost(failure, has_answered)
        if self._left <= 0:
            return None
        self._timeouts += failure.kind is Kind.TIMEOUT
        upper = max(self._policy.base, 3.0 * self._last_wait)
        self._last_wait = min(self._policy.cap, self._rng.uniform(self._policy.base, upper))
        wait = max(self._last_wait, asked)
        return wait if now + wait < self._deadline else None

    def _cost(self, failure: AttemptFailed, has_answered: bool) -> int:
        is_unreached = failure.kind is Kind.CONNECTION and not has_answered
        return self._policy.unreached_cost if is_unreached else 1
