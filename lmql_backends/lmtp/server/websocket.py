"""Websockets: a protocol chosen by its name, a reader and a writer, and a bound on what waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from lmql_backends.lmtp.server.answers import json_error
from lmql_backends.lmtp.server.asgi import Receive, Scope, Send, client_of, headers_of, path_of, raw_headers
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.drain import REASON, Drain
from lmql_backends.lmtp.server.gate import Gate
from lmql_backends.lmtp.server.peers import Frame, Peer, Speak
from lmql_backends.lmtp.server.settings import ServerSettings

PATHS = frozenset({"/", "/lmtp"})
GOING_AWAY = 1012
"""Close code: the server ends, and the client may connect again."""
INTERNAL_ERROR = 1011
SLOW_CONSUMER = 4008
"""Close code: the client read nothing for `stall_seconds` while something waited for it."""
OVERFLOW = 16
"""Where streams cannot pause, a client is cut off when so many times `max_queued_bytes` wait for it."""

logger = logging.getLogger(__name__)


class WebSocketServer:
    """The protocols behind their guards."""

    def __init__(
        self, protocols: Mapping[str | None, Speak], gate: Gate, drain: Drain, settings: ServerSettings
    ) -> None:
        """`protocols`: by subprotocol; None for clients that name none."""
        self._protocols = protocols
        self._gate = gate
        self._drain = drain
        self._settings = settings
        self.connections = 0

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from the handshake to its end."""
        await receive()  # websocket.connect
        refusal = self._refusal(scope)
        if refusal is not None:
            await _deny(scope, send, refusal)
            return
        subprotocol = self._choice(scope["subprotocols"])
        speak = self._protocols[subprotocol]
        with self._drain.run():
            self.connections += 1
            try:
                await send({"type": "websocket.accept", "subprotocol": subprotocol})
                await self._converse(speak, client_of(scope), receive, send)
            except OSError:  # how servers say that the client is gone
                logger.debug("%s went away.", client_of(scope))
            finally:
                self.connections -= 1

    async def _converse(self, speak: Speak, client: str, receive: Receive, send: Send) -> None:
        writer = Writer(send, self._settings, client)
        peer = speak(writer.put)
        writer.attach(peer)
        try:
            async with asyncio.TaskGroup() as group:
                helpers = (group.create_task(writer.run()), group.create_task(self._end_gently(peer, writer)))
                while (event := await receive())["type"] == "websocket.receive":
                    text = event.get("text")
                    peer.receive(text if text is not None else event["bytes"])
                for helper in helpers:
                    helper.cancel()
        finally:
            await peer.aclose()

    async def _end_gently(self, peer: Peer, writer: Writer) -> None:
        """When the server drains: the connection ends with what runs on it."""
        await self._drain.begun.wait()
        peer.refuse_new(REASON)
        await peer.wait_idle()
        writer.close(GOING_AWAY, "the server ends")

    def _refusal(self, scope: Scope) -> HttpResponse | None:
        path = path_of(scope)
        refusal = self._gate.refusal(path, headers_of(scope))
        if refusal is not None:
            return refusal
        if path not in PATHS:
            return json_error(404, f"there is no websocket at {path!r}, but at /lmtp.", code="not_found")
        offered: Sequence[str] = scope["subprotocols"]
        if offered and self._choice(offered) is None:
            known = ", ".join(name for name in self._protocols if name)
            return json_error(
                400,
                f"none of the subprotocols is known: {', '.join(offered)[:200]}.",
                code="bad_subprotocol",
                remedy=f"Offer one of {known}; or none, for version 1.",
            )
        return None

    def _choice(self, offered: Sequence[str]) -> str | None:
        return next((name for name in offered if name in self._protocols), None)


class Writer:
    """Frames on their way to one client, in their order."""

    def __init__(self, send: Send, settings: ServerSettings, client: str) -> None:
        self._send = send
        self._stall_seconds = settings.stall_seconds
        self._high = settings.max_queued_bytes
        self._low = settings.max_queued_bytes // 2
        self._client = client
        self._peer: Peer | None = None
        self._frames: list[Frame] = []
        self._bytes = 0
        self._is_held = False
        self._news = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._deadline: asyncio.Timeout | None = None
        self._is_lost = False
        """Nothing more is sent to this client."""

    def attach(self, peer: Peer) -> None:
        """Whom to hold when the client does not keep up."""
        self._peer = peer

    def put(self, frame: Frame) -> None:
        """Send it when those before it have been sent."""
        if self._is_lost:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._news.set()
        if self._bytes <= self._high or self._peer is None:
            return
        if not self._is_held:
            self._is_held = True
            self._peer.pause()
        if not self._peer.can_pause and self._bytes > self._high * OVERFLOW and self._deadline is not None:
            self._is_lost = True
            self._deadline.reschedule(0.0)

    def close(self, code: int, reason: str) -> None:
        """End the connection when all frames have been sent."""
        self._closing = (code, reason)
        self._news.set()

    async def run(self) -> None:
        """Send what comes, until the connection ends."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await self._flush()
                if self._closing is not None and not self._frames:
                    await self._close(*self._closing)
                    return
        except TimeoutError:
            self._is_lost = True
            self._frames.clear()
            logger.warning("%s does not read what it asked for and is cut off.", self._client)
            await self._close(SLOW_CONSUMER, "slow consumer")
        except OSError:
            return  # the client is gone, which the reader is told, too

    async def _flush(self) -> None:
        while self._frames:
            frames, self._frames = self._frames, []
            for frame in frames:
                async with asyncio.timeout(self._stall_seconds) as self._deadline:
                    await self._send(_sending(frame))
                self._deadline = None
                self._bytes -= len(frame)
                if self._is_held and self._bytes <= self._low and self._peer is not None:
                    self._is_held = False
                    self._peer.resume()

    async def _close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


def _sending(frame: Frame) -> dict[str, object]:
    kind = "text" if isinstance(frame, str) else "bytes"
    return {"type": "websocket.send", kind: frame}


async def _deny(scope: Scope, send: Send, response: HttpResponse) -> None:
    """Answer the handshake instead of accepting it."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        return
    headers = raw_headers(response)
    start = {"type": "websocket.http.response.start", "status": response.status, "headers": headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.body, "more_body": False})
