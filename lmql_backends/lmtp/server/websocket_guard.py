"""uvicorn's websocket protocol, for clients that stop reading or vanish; given to it as ``ws=``."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

CLOSE_SECONDS = 5.0
"""How long a client may take to answer a close frame."""


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """Closing never waits for a client that reads nothing: its connection is cut after a while."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.close_timeout = CLOSE_SECONDS
        self._cut: asyncio.TimerHandle | None = None

    async def send(self, message: ASGISendEvent) -> None:
        if self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        if message["type"] == "websocket.close":
            self.writable.set()
        await super().send(message)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._cut_later()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._cut_now()  # what cannot be delivered would hold the connection open

    def shutdown(self) -> None:
        super().shutdown()
        self._cut_later()

    def eof_received(self) -> None:
        if self.transport.get_write_buffer_size():
            self._cut_now()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        super().connection_lost(exc)

    def _cut_later(self) -> None:
        if self._cut is None and not self.disconnected:
            self._cut = self.loop.call_later(self.close_timeout, self._cut_now)

    def _cut_now(self) -> None:
        self.transport.abort()
