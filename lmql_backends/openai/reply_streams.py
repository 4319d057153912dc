"""Answers piece by piece: as they come over HTTP, and as they came before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from dcmodel.types import Cost
from lmql_backends.openai.costs import Prices, cost_of
from lmql_backends.openai.endpoint_api import Reply
from lmql_backends.openai.replies import ReplyReader
from lmql_backends.openai.transport.streaming import CompletionStream

Keep = Callable[[list[dict[str, Any]]], None]


class HttpReplyStream:
    """See `endpoint_api.ReplyStream`."""

    def __init__(
        self,
        stream: CompletionStream,
        reader: ReplyReader,
        prompt_tokens: int,
        prices: Prices | None,
        keep: Keep | None = None,
    ) -> None:
        """`keep` gets all pieces of a stream that came to its end."""
        self._stream = stream
        self._keep = keep
        self._pieces: list[dict[str, Any]] = []
        self._reader = reader
        self._prompt_tokens = prompt_tokens
        self._prices = prices

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self

    async def __anext__(self) -> Reply:
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            if self._keep is not None:
                self._keep(self._pieces)
            raise
        choice = chunk.choice
        if chunk.text != _said(choice):
            # Part of it was given out before a cut: what it shows of its tokens no longer fits.
            choice = {name: choice.get(name) for name in ("finish_reason", "stop_reason")}
        if self._keep is not None:
            self._pieces.append({"choice": choice, "text": chunk.text})
        return self._reader.read(choice, chunk.text)

    @property
    def cost(self) -> Cost:
        result = self._stream.result
        return cost_of(
            result.usage,
            self._stream.spent,
            self._prices,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._stream.received.tokens,
            is_estimated=result.is_usage_estimated or result.usage is None,
        )


def _said(choice: Mapping[str, Any]) -> str:
    """The text of a chunk's choice, as the endpoint sent it."""
    delta = choice.get("delta")
    return (delta.get("content") if delta is not None else choice.get("text")) or ""


class KeptReplyStream:
    """The pieces of a stream that came to its end before. See `endpoint_api.ReplyStream`."""

    def __init__(self, pieces: Sequence[Mapping[str, Any]], reader: ReplyReader, cost: Cost) -> None:
        self._pieces = iter(pieces)
        self._reader = reader
        self.cost = cost

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to close."""

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self

    async def __anext__(self) -> Reply:
        piece = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        return self._reader.read(piece["choice"], piece["text"])
