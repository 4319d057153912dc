"""When a lost connection is tried again, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from dcmodel.errors import DcModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential waits with full jitter, under a deadline."""

    seconds: float = 10.0
    """How long a lost connection is tried again; 0: not at all. A server that never answered is not."""
    base: float = 0.05
    cap: float = 2.0
    """Seconds: the longest wait lies below ``min(cap, base * 2**attempt)``."""
    max_losses: int = 3
    """How many connections a request may lose without getting anything further. It may be what ends them."""
    welcome_seconds: float = 10.0
    """How long a server may take to greet."""

    def wait(self, attempt: int, error: DcModelError | None, rng: Random) -> float:
        """Seconds before try number `attempt` (from 0), after `error`."""
        drawn = rng.uniform(0.0, min(self.cap, self.base * 2.0 ** min(attempt, 30)))
        asked = getattr(error, "retry_after", None)
        return drawn if asked is None else max(drawn, float(asked))


def is_permanent(error: DcModelError) -> bool:
    """Whether another try would end the same way."""
    return not error.retryable
