"""A connection of LMQL's own client (version 1): streams and scores over any `DcModel`, no I/O.

What the client needs in order not to hang decides what is sent: TOKEN and MSG hold lists; an error of a
stream is a TOKEN item; every stream ends with an item that carries a token (`legacy_stream`); nothing that it
sends closes the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from dcmodel.errors import InvalidRequestError, OverloadedError
from lmql_backends.lmtp.protocol.legacy import (
    UNAVAILABLE,
    ErrorItem,
    InfoItem,
    LegacyCommand,
    LegacyError,
    LegacyGenerate,
    LegacyModelInfo,
    LegacyScore,
    ScoreItem,
    StreamId,
    TokenItem,
    msg_frame,
    parse,
    token_frame,
)
from lmql_backends.lmtp.server.contracts import Models, ServedModel
from lmql_backends.lmtp.server.legacy_scores import ScoreQueue, error_text
from lmql_backends.lmtp.server.legacy_stream import run_stream

MAX_STREAMS = 1024


class LegacyConnection:
    """What one client asks for. Belongs to the event loop that made it.

    All items of one turn of the loop leave in one frame. A client that goes away (`aclose`) frees its places
    in the model within one step.
    """

    def __init__(
        self, models: Models, send_text: Callable[[str], None], *, max_streams: int = MAX_STREAMS
    ) -> None:
        self._models = models
        self._send_text = send_text
        self._max_streams = max_streams
        self._loop = asyncio.get_running_loop()
        self._scores = ScoreQueue(models, self._scored)
        self._tasks: set[asyncio.Task[None]] = set()
        self._live: set[StreamId] = set()
        """Streams that have not ended."""
        self._items: list[TokenItem | ScoreItem | ErrorItem] = []
        self._refusal: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        return self._idle.is_set()

    def receive(self, text: str) -> None:
        """Begin what a frame asks for. Never raises for what a client sent."""
        if self._is_closed:
            return
        try:
            command = parse(text)
        except LegacyError as error:
            failed = ErrorItem(stream_id=error.stream_id, error=error.message)
            is_stream = error.is_stream and error.stream_id is not None
            if is_stream and error.stream_id not in self._live:
                self._put(failed)
            else:
                self._tell(failed)
            return
        self._begin(command)

    def refuse_new(self, reason: str) -> None:
        """Answer new requests with an error; what runs goes on."""
        self._refusal = reason

    async def wait_idle(self) -> None:
        """Wait until nothing runs and everything has been sent."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Cancel what runs and send nothing more."""
        self._is_closed = True
        self._items.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._live.clear()
        self._note_idle()

    # -- what is asked for -------------------------------------------------------------------------

    def _begin(self, command: LegacyCommand) -> None:
        if isinstance(command, LegacyModelInfo):
            self._start(self._describe(command))
            return
        if command.stream_id in self._live:
            # As an item it would end the stream of that number, which is another one.
            self._tell(ErrorItem(stream_id=command.stream_id, error="this stream has not ended yet."))
            return
        if (refusal := self._why_not()) is not None:
            self._put(ErrorItem(stream_id=command.stream_id, error=str(refusal)))
            return
        self._live.add(command.stream_id)
        if isinstance(command, LegacyGenerate):
            self._start(self._generate(command))
        elif (group := self._scores.put(command)) is not None:
            self._start(self._scores.run(group))

    def _why_not(self) -> InvalidRequestError | OverloadedError | None:
        if self._refusal is not None:
            return OverloadedError(f"the server takes nothing new: {self._refusal}.")
        if len(self._live) >= self._max_streams:
            return OverloadedError(
                f"{self._max_streams} streams are open on this connection.", remedy="Let some of them end."
            )
        return None

    async def _generate(self, asked: LegacyGenerate) -> None:
        try:
            async with self._models.use(asked.model) as served:
                await run_stream(asked, served.model, self._put)
        except Exception as error:
            self._put(ErrorItem(stream_id=asked.stream_id, error=error_text(error)))
        finally:
            self._live.discard(asked.stream_id)

    def _scored(self, asked: LegacyScore, items: Sequence[ScoreItem | ErrorItem]) -> None:
        self._live.discard(asked.stream_id)
        for item in items:
            self._put(item)

    async def _describe(self, asked: LegacyModelInfo) -> None:
        try:
            async with self._models.use(asked.model) as served:
                item = InfoItem(stream_id=asked.stream_id, model_info=description(served))
        except Exception as error:
            item = InfoItem(stream_id=asked.stream_id, model_info=UNAVAILABLE, error=error_text(error))
        self._tell(item)

    # -- what is sent ------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._note_idle()

    def _put(self, item: TokenItem | ScoreItem | ErrorItem) -> None:
        if self._is_closed:
            return
        if not self._items:
            self._idle.clear()
            self._loop.call_soon(self._flush)
        self._items.append(item)

    def _flush(self) -> None:
        items, self._items = self._items, []
        if items and not self._is_closed:
            self._send_text(token_frame(items))
        self._note_idle()

    def _tell(self, item: InfoItem | ErrorItem) -> None:
        if not self._is_closed:
            self._send_text(msg_frame([item]))

    def _note_idle(self) -> None:
        if not self._tasks and not self._items:
            self._idle.set()


def description(served: ServedModel) -> dict[str, Any]:
    """What LMQL shows in its traces and certificates."""
    info = served.model.info
    return {
        "name": served.name,
        "backend": info.backend,
        "vocab_size": info.vocab_size,
        "max_positions": info.max_positions,
        "device": info.device,
        "dtype": info.dtype,
        **dict(info.details),
    }
