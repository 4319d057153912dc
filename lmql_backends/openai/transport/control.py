"""How much may be under way at an endpoint, and how soon the next request may start. No I/O.

All times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from random import Random

from lmql_backends.openai.transport.failures import AttemptFailed, Kind
from lmql_backends.openai.transport.rate_headers import Allowance, RateLimits

BEYOND_WINDOW = math.inf
# Where the server does not tell its limit (chosen in the simulations of the tests):
MARGIN = 1.1
"""The first pace leaves so much more room than the one that went well."""
SLOWER = 1.25
"""A refusal stretches the gap by so much."""
FASTER = 0.998
"""Each success shrinks the gap by so much: only trying shows whether more is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The defaults are those of the simulations in the tests."""

    first_window: float = 16.0
    max_window: float = 512.0
    cut: float = 0.7
    """What is left of the window after a refusal or a timeout, at most once in `cut_interval` seconds."""
    cut_interval: float = 1.0
    back_off: float = 0.5
    """Seconds: the first common pause after a refusal without Retry-After; it doubles."""
    max_back_off: float = 15.0
    max_pause: float = 600.0
    """Seconds: the longest common pause; after it one request asks again."""
    breaker: int = 8
    """So many failures in a row, whatever the job, and only single probes go out."""
    remembered: int = 64
    """Answers from which the rate that an endpoint bears is estimated, where it does not tell."""


class Control:
    """Window, pace, pause and breaker of one endpoint, key and model.

    The window starts small and doubles with each round of answers until the first refusal; then it grows by
    two a round. Where the server tells its limit and less than a quarter is left, or it has refused,
    requests start at the limit's pace; where it does not tell, at a little less than the pace that went well.
    """

    def __init__(self, settings: ControlSettings, rng: Random) -> None:
        self.window = settings.first_window
        self.in_flight = 0
        self.pause_until = -math.inf
        self.gap = 0.0
        """Seconds between two starts; 0: no pace."""
        self.has_answered = False
        """Whether the endpoint ever answered anything."""
        self._settings = settings
        self._rng = rng
        self._next_start = -math.inf
        self._last_cut = -math.inf
        self._is_slow_start = True
        self._refusals = 0
        self._failures = 0
        self._probes = 0
        self._limits = RateLimits()
        self._successes: deque[float] = deque(maxlen=settings.remembered)
        self._token_gap = 0.0
        """Seconds per token; 0: tokens are not short."""

    @property
    def is_broken(self) -> bool:
        """Nothing goes well: only probes, one at a time."""
        return self._failures >= self._settings.breaker

    def delay(self, now: float) -> float:
        """Seconds until the next request may start; 0: now; `BEYOND_WINDOW`: not before another ends."""
        allowed = 1.0 if self.is_broken else max(self.window, 1.0)
        if self.in_flight + 1 > allowed:
            return BEYOND_WINDOW
        return max(self.pause_until - now, self._next_start - now, 0.0)

    def started(self, now: float, tokens: int) -> None:
        """A request of about so many tokens (prompt and completion) goes out."""
        self.in_flight += 1
        gap = max(self.gap, self._token_gap * tokens)
        if gap:
            self._next_start = max(self._next_start, now) + gap

    def ended(self) -> None:
        """Its place is free."""
        self.in_flight -= 1

    def saw(self, limits: RateLimits) -> None:
        """What the headers of any response said."""
        self._limits = limits
        requests, tokens = limits.requests, limits.tokens
        if requests is not None:
            self._pace_by(requests)
        if tokens is not None:
            self._token_gap = 1.0 / tokens.per_second if tokens.is_short else 0.0

    def succeeded(self, now: float) -> None:
        was_broken = self.is_broken
        self.has_answered = True
        self._refusals = self._failures = self._probes = 0
        self._successes.append(now)
        if was_broken:
            self.window = max(self.window * 0.5, 4.0)
        elif self.in_flight + 1 >= self.window * 0.5:
            self.window += 1.0 if self._is_slow_start else 2.0 / self.window
            self.window = min(self.window, self._settings.max_window)
        if self.gap and self._limits.requests is None:
            self.gap *= FASTER

    def failed(self, now: float, failure: AttemptFailed) -> None:
        if failure.status:
            self.has_answered = True
        match failure.kind:
            case Kind.RATE_LIMITED:
                self._failures = 0
                self._refused(now, failure.retry_after)
            case Kind.UNAVAILABLE:
                self._count_failure(now)
                if failure.retry_after is not None:
                    self._pause(now, failure.retry_after)
            case Kind.TIMEOUT:
                self._count_failure(now)
                self._cut(now)
            case Kind.CONNECTION | Kind.BAD_RESPONSE:
                self._count_failure(now)
            case Kind.PERMANENT:
                pass

    # -- inside ------------------------------------------------------------------------------------

    def _pace_by(self, requests: Allowance) -> None:
        if requests.is_short:
            self.gap = 1.0 / requests.per_second
        elif requests.remaining > 0.5 * requests.limit and not self._refusals:
            self.gap = 0.0

    def _refused(self, now: float, retry_after: float | None) -> None:
        is_new = self._cut(now)
        if is_new:
            self._refusals += 1
            self._slow_down(now)
        if retry_after is not None:
            self._pause(now, retry_after)
        elif is_new:
            back_off = self._settings.back_off * 2.0 ** min(self._refusals - 1, 16)
            self._pause(now, min(back_off, self._settings.max_back_off) * self._rng.uniform(0.75, 1.25))

    def _slow_down(self, now: float) -> None:
        if self._limits.requests is not None:
            self.gap = max(self.gap, 1.0 / self._limits.requests.per_second)
        elif self.gap:
            self.gap = min(self.gap * SLOWER, self._settings.max_back_off)
        elif len(self._successes) >= 4 and now > self._successes[0]:
            self.gap = MARGIN * (now - self._successes[0]) / len(self._successes)

    def _pause(self, now: float, seconds: float) -> None:
        self.pause_until = max(self.pause_until, now + min(seconds, self._settings.max_pause))

    def _cut(self, now: float) -> bool:
        """Whether this was a new cut, and not one more refusal of the same burst."""
        if now - self._last_cut < self._settings.cut_interval:
            return False
        self._last_cut = now
        self._is_slow_start = False
        self.window = max(self.window * self._settings.cut, 1.0)
        return True

    def _count_failure(self, now: float) -> None:
        self._failures += 1
        # What was sent before the pause and fails in it is no probe.
        if self.is_broken and now >= self.pause_until:
            back_off = self._settings.back_off * 2.0 ** min(self._probes, 16)
            self._probes += 1
            self._pause(now, min(back_off, self._settings.max_back_off) * self._rng.uniform(0.75, 1.25))
