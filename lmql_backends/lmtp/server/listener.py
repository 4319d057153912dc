"""A port with uvicorn's guarded protocols behind it; without its polling, signals and process exits."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from dcmodel.errors import SetupError
from lmql_backends.lmtp.server.app import LMTPApp
from lmql_backends.lmtp.server.h11_guard import guarded_h11
from lmql_backends.lmtp.server.settings import ServerSettings
from lmql_backends.lmtp.server.websocket_guard import GuardedWebSocket

BACKLOG = 2048


class _Connections(set[Any]):
    """uvicorn's set of connections, which says when it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.empty = asyncio.Event()
        self.empty.set()

    def add(self, connection: Any) -> None:
        super().add(connection)
        self.empty.clear()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        if not self:
            self.empty.set()

    def remove(self, connection: Any) -> None:
        super().remove(connection)
        if not self:
            self.empty.set()


class Listener:
    """Accepts connections for an application. Belongs to one event loop."""

    def __init__(self, app: LMTPApp, settings: ServerSettings, tls: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._tls = tls
        self._config = Config(
            app,
            loop="none",
            http=guarded_h11(settings),
            ws=GuardedWebSocket,
            ws_max_size=settings.limits.max_frame_bytes,
            ws_ping_interval=settings.ping_seconds,
            ws_ping_timeout=settings.ping_seconds,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=settings.keep_alive_seconds,
            h11_max_incomplete_event_size=settings.max_header_bytes,
        )
        self._config.load()
        self._state = ServerState()
        self._connections = self._state.connections = _Connections()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """Open ones, of any kind."""
        return len(self._connections)

    async def open(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises `SetupError` where that cannot be."""
        loop = asyncio.get_running_loop()
        protocol = partial(
            self._config.http_protocol_class,
            config=self._config,  # type: ignore[call-arg]
            server_state=self._state,
            app_state={},
            _loop=loop,
        )
        handshake = self._settings.handshake_seconds if self._tls is not None else None
        try:
            self._server = await loop.create_server(
                protocol, host, port, ssl=self._tls, ssl_handshake_timeout=handshake, backlog=BACKLOG
            )
        except OSError as error:
            raise SetupError(
                f"the server cannot listen on {host}:{port}: {error.strerror or error}.",
                remedy="Choose another --port (0: any that is free) or --host.",
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def close_port(self) -> None:
        """Accept no more connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def aclose(self) -> None:
        """Close the port and all connections, and wait for what served them; websockets are told (1012)."""
        self.close_port()
        for connection in list(self._connections):
            if isinstance(connection, GuardedWebSocket):
                connection.shutdown()
            else:
                connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks))
        for connection in list(self._connections):
            connection.transport.abort()
        await self._connections.empty.wait()
