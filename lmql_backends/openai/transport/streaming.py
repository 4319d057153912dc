"""`CompletionStream`: one streamed completion that goes on after cuts, nothing lost and nothing doubled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

from dcmodel.errors import ConnectionLostError
from lmql_backends.openai.transport.chunks import Chunk
from lmql_backends.openai.transport.continuation import (
    Continuation,
    Received,
    is_deterministic,
    token_limit,
)
from lmql_backends.openai.transport.counters import Counters
from lmql_backends.openai.transport.event_source import EventSource
from lmql_backends.openai.transport.failures import AttemptFailed, Kind, to_error
from lmql_backends.openai.transport.job import Job
from lmql_backends.openai.transport.jobs import Attempt, Runner

Opener = Callable[[Mapping[str, Any]], Attempt[EventSource]]
"""What asks for a stream of this body."""


@dataclass(slots=True)
class StreamResult:
    """What is known when the stream is over."""

    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    """Summed over the connections, as the endpoint bills them."""
    is_usage_estimated: bool = False
    """A connection was cut, so that its own account never came."""
    resumes: int = 0
    overrun: int = 0
    """So many characters at the end of what was given out belong to a stop string that lay across a seam."""


class CompletionStream:
    """Iterate over it; `aclose`, or leaving its ``async with``, closes the response: the server stops.

    A stream that ends without a finish reason was cut. What follows a cut is asked for by `Continuation`.
    Where there is none, a deterministic completion is asked for again, and must begin with what was given out
    already; any other begins anew while nothing was given out, and raises `ConnectionLostError` afterwards.
    """

    def __init__(
        self,
        runner: Runner,
        job: Job,
        opener: Opener,
        body: Mapping[str, Any],
        continuation: Continuation,
        counters: Counters,
        where: str,
    ) -> None:
        self.received = Received()
        self.result = StreamResult()
        self.spent = job.spent
        self._runner = runner
        self._job = job
        self._opener = opener
        self._body = body
        self._continuation = continuation
        self._counters = counters
        self._where = where
        self._source: EventSource | None = None
        self._retries = runner.retries(job)
        self._limit = token_limit(body)
        self._repeated = ""
        """What the present connection will say again, because it began anew."""
        self._seam = 0
        """Where the text of the present connection begins, if it goes on from an earlier one."""
        self._account: dict[str, Any] | None = None
        """The present connection's usage."""
        self._chunks = self._run()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Stop. May be called at any time, and more than once."""
        self._close_source()
        await self._chunks.aclose()

    # -- inside ------------------------------------------------------------------------------------

    async def _run(self) -> AsyncGenerator[Chunk, None]:
        try:
            while not self._has_finished():
                await self._open()
                try:
                    async with aclosing(self._read()) as chunks:
                        async for chunk in chunks:
                            yield chunk
                except AttemptFailed as failure:
                    self._close_source()
                    if not self._has_finished():
                        self._runner.gate.failed(failure)
                        await self._runner.after(failure, self._job, self._retries)
        except AttemptFailed as failure:
            raise to_error(failure, self._where) from failure
        finally:
            self._close_source()

    def _has_finished(self) -> bool:
        # The connection may be lost behind the last token, too.
        has_all = self._limit is not None and self.received.tokens >= self._limit
        if self.result.finish_reason is None and has_all:
            self.result.finish_reason = "length"
        return self.result.finish_reason is not None

    async def _open(self) -> None:
        attempt = self._opener(self._next_body())
        self._source = await self._runner.run(
            self._job, attempt, retries=self._retries, discard=EventSource.close
        )

    def _next_body(self) -> Mapping[str, Any]:
        self._repeated = ""
        self._seam = 0
        received = self.received
        if not received.text and not received.token_ids and not received.has_more:
            return self._body
        self.result.resumes += 1
        self._counters.resumes += 1
        rest = None if received.has_more else self._continuation.rest(self._body, received)
        if rest is not None:
            self._seam = len(received.text)
            return rest
        if received.has_more or not is_deterministic(self._body):
            raise ConnectionLostError(
                f"{self._where} broke off after {len(self.received.text)} characters, and cannot go on.",
                remedy="Ask again; with temperature 0 or a seed a stream survives this.",
            )
        self._repeated = self.received.text
        return self._body

    async def _read(self) -> AsyncGenerator[Chunk, None]:
        """The chunks of one connection, as far as they are new. Raises `AttemptFailed` where it is cut."""
        while self._source is not None:
            chunk = await self._source.next()
            if chunk is None or chunk.is_end:
                break
            if chunk.usage is not None:
                # Some endpoints send the account with each chunk, each the sum so far.
                self._account = chunk.usage
            chunk = self._unrepeated(chunk)
            if chunk.choice:
                self._take(chunk)
                yield chunk
        if not self._has_finished():
            raise AttemptFailed(Kind.CONNECTION, "the stream ended without a finish reason")

    def _unrepeated(self, chunk: Chunk) -> Chunk:
        """The chunk without what was given out before."""
        if not self._repeated or not (chunk.text or chunk.finish_reason):
            return chunk
        common = min(len(chunk.text), len(self._repeated))
        is_too_short = chunk.finish_reason is not None and common < len(self._repeated)
        if is_too_short or chunk.text[:common] != self._repeated[:common]:
            raise ConnectionLostError(
                f"{self._where} broke off, and gave another text when it was asked again.",
                remedy="Ask again; the endpoint is not deterministic.",
            )
        self._repeated = self._repeated[common:]
        rest = chunk.text[common:]
        return Chunk(
            text=rest, tokens=1 if rest else 0, finish_reason=chunk.finish_reason, choice=chunk.choice
        )

    def _take(self, chunk: Chunk) -> None:
        self.received.add(chunk.text, chunk.token_ids, chunk.tokens)
        self.received.has_more |= chunk.has_more
        if chunk.text:
            self._retries.progressed()
        if chunk.finish_reason is not None:
            self.result.finish_reason = chunk.finish_reason
        if self._seam:
            self._check_stop()

    def _check_stop(self) -> None:
        """End with a stop string that lies across the seam: the endpoint could not see it."""
        stops = self._body.get("stop") or ()
        for stop in [stops] if isinstance(stops, str) else stops:
            first = max(self._seam - len(stop) + 1, 0)
            place = self.received.text.find(stop, first, self._seam + len(stop) - 1)
            if place >= 0:
                self.result.overrun = len(self.received.text) - place
                self.result.finish_reason = "stop"
                self._close_source()
                return

    def _close_source(self) -> None:
        if self._source is None:
            return
        self._source.close()
        self._source = None
        account, self._account = self._account, None
        if account is None:
            self.result.is_usage_estimated = True
            return
        self._counters.add_usage(account)
        self.result.usage = _summed(self.result.usage or {}, account)


def _summed(total: Mapping[str, Any], account: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers are added, those in details, too (``prompt_tokens_details``)."""
    result = dict(total)
    for name, value in account.items():
        before = result.get(name)
        if isinstance(value, dict):
            result[name] = _summed(before if isinstance(before, dict) else {}, value)
        elif isinstance(value, int):
            result[name] = (before or 0) + value
    return result
