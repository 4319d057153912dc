"""An endpoint on a virtual clock: limits, headers, errors, hanging requests; nothing of the network."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from lmql_backends.openai.transport.http import Http, OpenReply, Reply, Target


@dataclass(kw_only=True)
class SimulatedHttp(Http):
    """A bucket of `burst` requests, filled with `per_minute` / 60 a second; each takes about `latency`."""

    per_minute: float = 0.0
    """0: no limit."""
    burst: float = 20.0
    is_charged: bool = True
    """A refused request counts, too."""
    has_retry_after: bool = True
    has_headers: bool = True
    latency: float = 1.0
    share_unavailable: float = 0.0
    share_hanging: float = 0.0
    first: list[Reply] = field(default_factory=list)
    """Answers to the first requests."""
    seed: int = 0
    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)
        self._filled = self.burst
        self._since = asyncio.get_running_loop().time()
        self._in_flight = 0

    async def request(self, method: str, target: Target, body: bytes | None, seconds: float) -> Reply:
        from lmql_backends.openai.transport.failures import AttemptFailed, Kind

        self.requests += 1
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._reply(body or b"{}")
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, "no answer") from error
        finally:
            self._in_flight -= 1
        self.statuses[reply.status] += 1
        return reply

    async def open(self, target: Target, body: bytes, seconds: float) -> OpenReply:
        raise NotImplementedError

    async def aclose(self) -> None:
        assert self._in_flight == 0

    async def _reply(self, body: bytes) -> Reply:
        if self.first:
            return self.first.pop(0)
        if not self._takes():
            await asyncio.sleep(0.05)
            return Reply(429, self._headers(is_refused=True), b'{"error": {"message": "slow down"}}')
        drawn = self._rng.random()
        if drawn < self.share_hanging:
            await asyncio.sleep(600.0)
        elif drawn < self.share_hanging + self.share_unavailable:
            await asyncio.sleep(0.05)
            return Reply(503, {}, b"")
        headers = self._headers(is_refused=False)
        await asyncio.sleep(self.latency * self._rng.uniform(0.7, 1.3))
        prompt = json.loads(body).get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1
        choices = [{"index": index, "text": "x", "finish_reason": "stop"} for index in range(prompts)]
        return Reply(200, headers, json.dumps({"choices": choices}).encode())

    def _takes(self) -> bool:
        if not self.per_minute:
            return True
        now = asyncio.get_running_loop().time()
        self._filled = min(self.burst, self._filled + (now - self._since) * self.per_minute / 60.0)
        self._since = now
        if self._filled >= 1.0:
            self._filled -= 1.0
            return True
        if self.is_charged:
            self._filled = max(self._filled - 1.0, -self.burst)
        return False

    def _headers(self, *, is_refused: bool) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        if self.has_headers and self.per_minute:
            headers["x-ratelimit-limit-requests"] = f"{self.per_minute:g}"
            headers["x-ratelimit-remaining-requests"] = str(max(int(self._filled), 0))
        if is_refused and self.has_retry_after:
            missing = (1.0 - self._filled) / (self.per_minute / 60.0)
            headers["retry-after"] = str(max(int(missing + 0.999), 1))
        return headers
