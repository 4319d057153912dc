"""Limits per minute, as token buckets: what is left is in the headers of each answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmql_backends.lmtp.server.openai.double.refusals import RefusalError
from lmql_backends.lmtp.server.openai.double.wishes import Json

RetryForm = Literal["seconds", "milliseconds", "date", "none"]
"""``retry-after: 2``, ``retry-after-ms: 1574``, ``retry-after: Sat, 28 Nov 2026 ...``, or nothing."""
Limit = Annotated[int, Meta(ge=1)]

CHARACTERS_PER_TOKEN = 4
"""How OpenAI guesses what a prompt will cost."""
DEFAULT_TOKENS = 16
"""Of an answer, where the request does not say."""


class RateLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of each model."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    burst_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """So much of what comes in per minute can be had at once."""
    charges_rejections: bool = True
    """Whether a request that is refused uses up the limit, too."""
    retry_after: RetryForm = "seconds"
    headers: Literal["openai", "azure", "none"] = "openai"
    """azure: what remains is sometimes said to be -1."""


class Bucket:
    """Fills evenly; time comes from the caller, in seconds."""

    def __init__(self, per_minute: int, burst_seconds: float, now: float) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60.0
        self._room = max(self._rate * burst_seconds, 1.0)
        self._level = self._room
        self._then = now

    def fill(self, now: float) -> None:
        self._level = min(self._room, self._level + (now - self._then) * self._rate)
        self._then = now

    def take(self, amount: float) -> None:
        self._level = max(self._level - amount, 0.0)

    def wait(self, amount: float) -> float:
        """Seconds until so much is there; 0: now. What never fits counts as the whole bucket."""
        return max(min(amount, self._room) - self._level, 0.0) / self._rate

    @property
    def left(self) -> int:
        return math.floor(self._level)

    @property
    def used(self) -> int:
        return math.ceil(self._room - self._level)

    @property
    def refill(self) -> float:
        """Seconds until it is full."""
        return (self._room - self._level) / self._rate


class Meter:
    """The buckets of one model."""

    def __init__(
        self,
        limits: RateLimits,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds for the buckets; `wall`: seconds since 1970, for dates in headers."""
        self._limits = limits
        self._clock = clock
        self._wall = wall
        wanted = {"requests": limits.requests_per_minute, "tokens": limits.tokens_per_minute}
        now = clock()
        self._buckets = {
            name: Bucket(per_minute, limits.burst_seconds, now)
            for name, per_minute in wanted.items()
            if per_minute is not None
        }

    def admit(self, model: str, tokens: int) -> dict[str, str]:
        """The headers of the answer. Raises `RefusalError` (429) where a bucket holds too little."""
        now = self._clock()
        costs = {"requests": 1, "tokens": tokens}
        for bucket in self._buckets.values():
            bucket.fill(now)
        waits = {name: bucket.wait(costs[name]) for name, bucket in self._buckets.items()}
        name = max(waits, key=waits.__getitem__, default="")
        is_refused = bool(name) and waits[name] > 0
        refusal = self._refusal(model, name, costs[name], waits[name]) if is_refused else None
        if refusal is None or self._limits.charges_rejections:
            for key, bucket in self._buckets.items():
                # A refused request is charged as a request; its tokens were never computed.
                bucket.take(costs[key] if refusal is None or key == "requests" else 0)
        headers = self._headers(is_refused)
        if refusal is not None:
            refusal.headers = {**headers, **refusal.headers}
            raise refusal
        return headers

    def _refusal(self, model: str, name: str, cost: int, wait: float) -> RefusalError:
        bucket = self._buckets[name]
        short = {"requests": "RPM", "tokens": "TPM"}[name]
        return RefusalError(
            f"Rate limit reached for {model} in organization org-double on {name} per min ({short}): Limit "
            f"{bucket.per_minute}, Used {bucket.used}, Requested {cost}. "
            f"Please try again in {duration(wait)}.",
            status=429,
            kind=name,
            code="rate_limit_exceeded",
            headers=retry_headers(wait, self._limits.retry_after, self._wall()),
        )

    def _headers(self, is_refused: bool) -> dict[str, str]:
        if self._limits.headers == "none":
            return {}
        headers = {}
        for name, bucket in self._buckets.items():
            is_unknown = self._limits.headers == "azure" and is_refused
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{name}"] = "-1" if is_unknown else str(bucket.left)
            headers[f"x-ratelimit-reset-{name}"] = duration(bucket.refill)
        return headers


def retry_headers(seconds: float, form: RetryForm, wall: float) -> dict[str, str]:
    """What tells a client when to come again."""
    if form == "seconds":
        return {"retry-after": str(math.ceil(seconds))}
    if form == "milliseconds":
        return {"retry-after-ms": str(math.ceil(seconds * 1000))}
    if form == "date":
        return {"retry-after": formatdate(math.ceil(wall + seconds), usegmt=True)}
    return {}


def duration(seconds: float) -> str:
    """As OpenAI's headers have it: ``20ms``, ``1.574s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 3):g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def expected_tokens(body: Json) -> int:
    """What a request may cost, guessed before anything is computed."""
    limit = body.get("max_completion_tokens", body.get("max_tokens", DEFAULT_TOKENS))
    answer = limit if isinstance(limit, int) else DEFAULT_TOKENS
    texts = body.get("n", 1) if isinstance(body.get("n", 1), int) else 1
    return answer * max(texts, 1) + math.ceil(_size(body.get("prompt", body.get("messages"))))


def _size(prompt: Any) -> float:
    """In tokens."""
    if isinstance(prompt, str):
        return len(prompt) / CHARACTERS_PER_TOKEN
    if isinstance(prompt, dict):
        return sum(map(_size, prompt.values()))
    if isinstance(prompt, list):
        return sum(map(_size, prompt))
    return 1.0 if isinstance(prompt, int) else 0.0
