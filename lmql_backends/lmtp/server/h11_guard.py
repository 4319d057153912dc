"""uvicorn's HTTP/1.1 protocol with the deadlines and bounds that it lacks; given to it as ``http=``."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from lmql_backends.lmtp.server.asgi import ABORT
from lmql_backends.lmtp.server.settings import ServerSettings

TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 119\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\n"
    b'{"error":{"message":"the server has too many connections.","type":"server_error","param":null,'
    b'"code":"overloaded"   }}\n'
)
BAD_REQUEST = (
    b'{"error":{"message":"this is no HTTP request that can be read.","type":"invalid_request_error",'
    b'"param":null,"code":"bad_request"}}\n'
)


class GuardedH11(H11Protocol):
    """Headers have a deadline, for further requests on the connection, too, and connections a number."""

    settings: ClassVar[ServerSettings] = ServerSettings()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, ABORT: self._abort}, _loop)
        self.access_log = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= self.settings.max_connections
        super().connection_made(transport)
        if is_full:
            transport.write(TOO_MANY)
            transport.close()
        else:
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._await_headers()

    def eof_received(self) -> None:
        # What has not been sent would keep a connection open whose client reads no more.
        if self.transport.get_write_buffer_size():
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_deadline()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self._abort()
            return
        headers = [("content-type", "application/json"), ("connection", "close")]
        headers.append(("content-length", str(len(BAD_REQUEST))))
        events = (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=BAD_REQUEST),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_headers(self) -> None:
        self._deadline = self.loop.call_later(self.settings.handshake_seconds, self._abort)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abort(self, *, reset: bool = False) -> None:
        self._stop_deadline()
        if reset:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def guarded_h11(settings: ServerSettings) -> type[GuardedH11]:
    """With these bounds."""
    return type("GuardedH11", (GuardedH11,), {"settings": settings})
