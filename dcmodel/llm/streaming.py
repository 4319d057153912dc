"""What `LLM.stream` and `LLM.astream` return: the steps of one generation, then its completion."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from dcmodel.loop import LoopThread
from dcmodel.model import GenerateStream
from dcmodel.types import Completion, TokenStep

Start = Callable[[], Awaitable[GenerateStream]]


class AsyncTextStream(AsyncIterator[TokenStep]):
    """The steps as they come. The request starts with the first one that is awaited.

    Cancelled by `cancel`, by leaving ``async with``, and when the stream is dropped.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._starting = asyncio.Lock()
        self._stream: GenerateStream | None = None
        self._parts: list[str] = []
        self._is_closed = False

    @property
    def text(self) -> str:
        """The text of the steps so far."""
        return "".join(self._parts)

    async def __anext__(self) -> TokenStep:
        if self._is_closed:
            raise StopAsyncIteration
        step = await anext(await self._running())
        self._parts.append(step.text)
        return step

    async def completion(self) -> Completion:
        """The whole result, at the end; may be awaited with or without iterating."""
        return await (await self._running()).completion()

    def cancel(self) -> None:
        """Stop within one step; the completion then has the tokens so far."""
        self._is_closed = True
        if self._stream is not None:
            self._stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def _running(self) -> GenerateStream:
        async with self._starting:
            if self._stream is None:
                self._stream = await self._start()
                if self._is_closed:
                    self._stream.cancel()
            return self._stream


class TextStream(Iterator[TokenStep]):
    """The steps as they come, for synchronous code. The request starts at once.

    Cancelled by `close`, by leaving ``with``, by Ctrl-C, and when the stream is dropped. One thread at
    a time may read it.
    """

    def __init__(self, loop: LoopThread, start: Start) -> None:
        self._loop = loop.loop
        self._items: SimpleQueue[TokenStep | Completion | BaseException] = SimpleQueue()
        self._parts: list[str] = []
        self._result: Completion | BaseException | None = None
        self._is_closed = False
        self._stream = loop.run(_begin(start))
        asyncio.run_coroutine_threadsafe(_pump(self._stream, self._items), self._loop)

    @property
    def text(self) -> str:
        """The text of the steps so far."""
        return "".join(self._parts)

    def __next__(self) -> TokenStep:
        step = None if self._is_closed else self._read()
        if step is None:
            raise StopIteration
        self._parts.append(step.text)
        return step

    def completion(self) -> Completion:
        """The whole result; waits for the end, with or without iterating. Raises what the request raised."""
        while self._result is None:
            with contextlib.suppress(Exception):  # kept in _result, raised below
                self._read()
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def close(self) -> None:
        """Stop within one step; the completion then has the tokens so far."""
        self._is_closed = True
        if self._result is None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stream.cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self.close()

    def _read(self) -> TokenStep | None:
        """The next step; None after the last."""
        if self._result is not None:
            return None
        try:
            item = self._items.get()
        except KeyboardInterrupt:
            self.close()
            raise
        if isinstance(item, TokenStep):
            return item
        self._result = item
        if isinstance(item, BaseException):
            raise item
        return None


async def _begin(start: Start) -> GenerateStream:
    return await start()


async def _pump(stream: GenerateStream, items: SimpleQueue[TokenStep | Completion | BaseException]) -> None:
    """Carry a request's steps, and its result or error, over to the reading thread."""
    try:
        async for step in stream:
            items.put(step)
        items.put(await stream.completion())
    except Exception as error:
        items.put(error)
    except asyncio.CancelledError as error:
        items.put(error)
        raise
