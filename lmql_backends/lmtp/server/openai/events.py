"""Server-sent events of several texts that grow at the same time, as one body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from dcmodel.model import DcModel, GenerateStream
from dcmodel.types import Completion, GenerateRequest, TokenStep
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.openai.errors import event_of

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
MAX_WAITING = 1024
"""Events that may wait for a client that reads slowly."""


class Writer(Protocol):
    """Makes the events of one text."""

    def begin(self) -> bytes:
        """What comes before the first token; perhaps nothing."""

    def step(self, step: TokenStep) -> bytes:
        """The event of one token; nothing if the token adds nothing that is shown."""

    def end(self, completion: Completion) -> bytes:
        """What comes after the last token."""


class EventBody(AsyncIterator[bytes]):
    """The body of a streamed answer. All events that are ready leave together.

    Owns the streams, the tasks that read them, and `resources` (the model's use): `aclose` ends them, and so
    does the end of the iteration. Errors after the first event are the last event.
    """

    def __init__(
        self,
        texts: Sequence[tuple[GenerateStream, Writer]],
        finale: Callable[[list[Completion]], bytes],
        resources: AsyncExitStack,
    ) -> None:
        """`finale`: what comes after all texts."""
        self._streams = [stream for stream, _ in texts]
        self._finale = finale
        self._resources = resources
        self._ready: list[bytes] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._results: list[Completion | None] = [None] * len(texts)
        self._error: Exception | None = None
        self._is_told = False
        self._is_over = False
        self._tasks = [
            asyncio.create_task(self._read(place, stream, writer))
            for place, (stream, writer) in enumerate(texts)
        ]
        self._running = len(self._tasks)

    async def begun(self) -> None:
        """Wait until there is something to send: an error before that is raised, and gets a status."""
        try:
            await self._news.wait()
            if self._error is not None:
                raise self._error
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> EventBody:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            if self._error is not None and not self._is_told:
                self._is_told = True
                return event_of(self._error)
            if self._is_over:
                await self.aclose()
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        data = self._ready[0] if len(self._ready) == 1 else b"".join(self._ready)
        self._ready.clear()
        self._room.set()
        return data

    async def aclose(self) -> None:
        """Cancel what runs; may be called at any time, and several times."""
        self._is_over = True
        for stream in self._streams:
            stream.cancel()
        for task in self._tasks:
            task.cancel()
        # Their errors were put into the body, and their cancellation is this one's.
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            await self._resources.aclose()

    # -- one task per text -------------------------------------------------------------------------

    async def _read(self, place: int, stream: GenerateStream, writer: Writer) -> None:
        try:
            opening: bytes | None = writer.begin()
            async for step in stream:
                data = writer.step(step)
                if opening is not None:
                    # The first token shows that the request runs; before it, an error is still a status.
                    data, opening = opening + data, None
                if data:
                    self._put(data)
                    if len(self._ready) >= MAX_WAITING:
                        await self._wait_for_room()
            completion = await stream.completion()
            self._results[place] = completion
            self._put((opening or b"") + writer.end(completion))
        except Exception as error:  # becomes the answer: `errors.py` logs what nobody foresaw
            self._fail(error)
        self._running -= 1
        if not self._running and self._error is None:
            self._put(self._finale([item for item in self._results if item is not None]))
            self._is_over = True

    def _put(self, data: bytes) -> None:
        if self._error is None:
            self._ready.append(data)
            self._news.set()

    async def _wait_for_room(self) -> None:
        while len(self._ready) >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()

    def _fail(self, error: Exception) -> None:
        """The end of all: a client cannot tell to which text an error belongs."""
        if self._error is not None or self._is_over:
            return
        self._error = error
        self._is_over = True
        self._news.set()
        for stream in self._streams:
            stream.cancel()


async def stream_texts(
    model: DcModel,
    texts: Sequence[tuple[GenerateRequest, Writer]],
    finale: Callable[[list[Completion]], bytes],
    stack: AsyncExitStack,
) -> HttpResponse:
    """Start the requests, and answer when the first has something to show.

    Takes over what `stack` holds. Raises what a request raises before that.
    """
    streams: list[GenerateStream] = []
    try:
        for request, _ in texts:
            streams.append(model.generate(request))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    writers = [writer for _, writer in texts]
    body = EventBody(list(zip(streams, writers, strict=True)), finale, stack.pop_all())
    await body.begun()
    return HttpResponse(body=body, content_type="text/event-stream", headers=HEADERS)
