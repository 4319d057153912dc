"""When a request that takes unusually long is asked for a second time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeSettings:
    """A second request after `factor` times the 95th percentile of the time that like requests took."""

    budget: float = 0.05
    """Hedges per request; 0: none."""
    factor: float = 1.5
    sampled_factor: float = 3.0
    """Where the two answers may differ: whoever takes the first of two draws prefers short texts, so it has
    to be rare that an answer is merely slow."""
    least_seconds: float = 0.5
    least_known: int = 10
    """So many answers before the percentile counts."""
    remembered: int = 256
    most: int = 3
    """Hedges of one request."""


class _Times:
    """How long requests of one kind took."""

    def __init__(self, settings: HedgeSettings) -> None:
        self._times: deque[float] = deque(maxlen=settings.remembered)
        self._least_known = settings.least_known
        self._fresh = 0
        self.percentile: float | None = None
        self.known: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, seconds: float) -> None:
        self._times.append(seconds)
        self._fresh += 1
        if len(self._times) >= self._least_known and (self._fresh >= 8 or self.percentile is None):
            self._fresh = 0
            ordered = sorted(self._times)
            self.percentile = ordered[int(0.95 * (len(ordered) - 1))]
            if not self.known.done():
                self.known.set_result(None)


class Hedging:
    """Times and budget of one gate. Lives in one event loop."""

    def __init__(self, settings: HedgeSettings) -> None:
        self.settings = settings
        self._times: dict[Hashable, _Times] = {}
        self._requests = 0
        self._hedges = 0

    def began(self) -> None:
        self._requests += 1

    def took(self, kind: Hashable, seconds: float) -> None:
        """A request of this kind succeeded after so long."""
        self._of(kind).add(seconds)

    def delay(self, kind: Hashable, *, is_sampled: bool) -> float | None:
        """Seconds after which a request is unusually late; None: not known yet (see `known`)."""
        percentile = self._of(kind).percentile
        if percentile is None:
            return None
        factor = self.settings.sampled_factor if is_sampled else self.settings.factor
        return max(factor * percentile, self.settings.least_seconds)

    def known(self, kind: Hashable) -> asyncio.Future[None]:
        """Done as soon as `delay` is known."""
        return self._of(kind).known

    def take(self) -> bool:
        """Whether the budget has one more hedge; then it is spent."""
        if self._hedges + 1 > self.settings.budget * self._requests + 1:
            return False
        self._hedges += 1
        return True

    def _of(self, kind: Hashable) -> _Times:
        times = self._times.get(kind)
        if times is None:
            times = self._times[kind] = _Times(self.settings)
        return times
