"""`EventSource`: one connection that streams."""

from __future__ import annotations

import asyncio

from lmql_backends.openai.transport.chunks import Chunk, read_event
from lmql_backends.openai.transport.failures import AttemptFailed, Kind
from lmql_backends.openai.transport.gate import Slot
from lmql_backends.openai.transport.http import OpenReply
from lmql_backends.openai.transport.sse import EventTooLongError, ServerEvent, SseParser


class EventSource:
    """The chunks of one connection. Keeps its place at the gate until `close`."""

    def __init__(self, reply: OpenReply, slot: Slot, stall_seconds: float) -> None:
        self._reply = reply
        self._slot = slot
        self._stall_seconds = stall_seconds
        self._pieces = reply.pieces()
        self._parser = SseParser()
        self._ready: list[Chunk] = []
        self._has_ended = False
        self._is_complete = False
        """The event that says that nothing follows was given out."""
        self._failure: AttemptFailed | None = None
        """What came behind the chunks that are ready."""
        slot.is_kept = True

    async def next(self) -> Chunk | None:
        """The next chunk; None: the server ended the stream. Raises `AttemptFailed`."""
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._has_ended:
                return None
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await self._fill()
            except TimeoutError as error:
                message = f"the stream was silent for {self._stall_seconds:g} seconds"
                raise AttemptFailed(Kind.TIMEOUT, message) from error
            except (EventTooLongError, UnicodeDecodeError) as error:
                raise AttemptFailed(Kind.BAD_RESPONSE, f"the stream is broken: {error}") from error
        chunk = self._ready.pop(0)
        self._is_complete = chunk.is_end
        return chunk

    def push_back(self, chunk: Chunk) -> None:
        """It is the next one again."""
        self._ready.insert(0, chunk)

    def close(self) -> None:
        """Stop, unless all was received."""
        if self._is_complete:
            self._reply.finish()
        else:
            self._reply.close()
        self._slot.leave()

    async def _fill(self) -> None:
        """Until there is a chunk, a failure or the end."""
        while not (self._ready or self._has_ended or self._failure):
            try:
                events = self._parser.feed(await anext(self._pieces))
            except StopAsyncIteration:
                self._has_ended = True
                events = self._parser.finish()
            except AttemptFailed as failure:
                self._failure = failure
                return
            self._take(events)

    def _take(self, events: list[ServerEvent]) -> None:
        try:
            for event in events:
                self._ready.append(read_event(event))
        except AttemptFailed as failure:
            self._failure = failure


async def first_chunk(reply: OpenReply, slot: Slot, seconds: float, stall_seconds: float) -> EventSource:
    """The stream of this response, once something has come. Closes it in any other case."""
    source = EventSource(reply, slot, stall_seconds)
    try:
        async with asyncio.timeout(seconds):
            chunk = await source.next()
    except TimeoutError as error:
        source.close()
        raise AttemptFailed(Kind.TIMEOUT, f"nothing came within {seconds:g} seconds") from error
    except BaseException:
        source.close()
        raise
    if chunk is None:
        source.close()
        raise AttemptFailed(Kind.BAD_RESPONSE, "an empty stream")
    source.push_back(chunk)
    return source
