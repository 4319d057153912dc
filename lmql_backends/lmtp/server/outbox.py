"""What a connection has to say: everything that happens in one turn of the event loop leaves in one frame."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from lmql_backends.lmtp.protocol.messages import ServerMessage, Tokens


class Source(ABC):
    """What has news that are made only when they can leave: the tokens of a stream."""

    is_listed = False
    """Whether it waits in an outbox already; the outbox writes it."""

    @abstractmethod
    def take(self) -> Tokens | None:
        """The news, if there are any. Raises nothing: its troubles are its own."""


class Outbox:
    """Messages in their order, and then the sources' news. Belongs to one event loop.

    While it is held, messages wait and sources are not asked: what a slow reader costs is what its streams
    keep anyhow, at most `max_tokens` each.
    """

    def __init__(self, send: Callable[[list[ServerMessage]], None]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._messages: list[ServerMessage] = []
        self._sources: list[Source] = []
        self._is_scheduled = False
        self._is_held = False
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        return not self._messages and not self._sources

    def put(self, message: ServerMessage) -> None:
        if self._is_closed:
            return
        self._messages.append(message)
        if not self._is_scheduled:
            self._schedule()

    def list(self, source: Source) -> None:
        """Ask the source when the turn ends."""
        if not source.is_listed and not self._is_closed:
            source.is_listed = True
            self._sources.append(source)
            if not self._is_scheduled:
                self._schedule()

    def hold(self) -> None:
        self._is_held = True

    def release(self) -> None:
        self._is_held = False
        if not self.is_empty:
            self._schedule()

    def close(self) -> None:
        """Nothing leaves any more."""
        self._is_closed = True
        self._messages.clear()
        self._sources.clear()

    def flush(self) -> None:
        """Send what there is, now."""
        self._is_scheduled = False
        if self._is_held or self._is_closed:
            return
        sources, self._sources = self._sources, []
        messages, self._messages = self._messages, []
        for source in sources:
            source.is_listed = False
            news = source.take()
            if news is not None:
                messages.append(news)
        if messages:
            self._send(messages)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self.flush)
