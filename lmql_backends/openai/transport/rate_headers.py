"""What a server says about its limits in the headers of a response. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after(headers: Mapping[str, str], wall_time: float) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or a date); None: it does not say.

    `wall_time` is the time of day in seconds since 1970, for dates. A date that has passed is 0.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _number(headers.get(name))
        if seconds is not None:
            return max(seconds * scale, 0.0)
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(parsedate_to_datetime(text).timestamp() - wall_time, 0.0)
    except (ValueError, OverflowError):
        return None


def duration(text: str | None) -> float | None:
    """Seconds of ``1s``, ``6m0s``, ``20ms``, or a bare number; None where it is nothing of the kind."""
    if not text:
        return None
    parts = DURATION_PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return math.fsum(float(number) * UNITS[unit] for number, unit in parts)
    return _number(text)


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit: how much per minute, and how much of it is left."""

    limit: float
    remaining: float

    @property
    def per_second(self) -> float:
        return self.limit / 60.0

    @property
    def is_short(self) -> bool:
        """Less than a quarter is left."""
        return self.remaining < 0.25 * self.limit


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What is known of requests and of tokens."""

    requests: Allowance | None = None
    tokens: Allowance | None = None


UNKNOWN = RateLimits()


def rate_limits(headers: Mapping[str, str]) -> RateLimits:
    """From ``x-ratelimit-*``. What makes no sense is left out: some servers send -1, or 0 of 0."""
    if "x-ratelimit-limit-requests" not in headers and "x-ratelimit-limit-tokens" not in headers:
        return UNKNOWN
    return RateLimits(requests=_allowance(headers, "requests"), tokens=_allowance(headers, "tokens"))


def _allowance(headers: Mapping[str, str], what: str) -> Allowance | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{what}"))
    remaining = _number(headers.get(f"x-ratelimit-remaining-{what}"))
    if limit is None or remaining is None or limit <= 0 or remaining < 0:
        return None
    return Allowance(limit, remaining)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
